"""scikit-learn's linear classifiers on an encoder's features, as one Keras model."""

from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from kvae.features.classifier import Classifier, classifier
from kvae.features.transformer import VAETransformer
from kvae.models import LatentModel

PROBES = 16  # random rows that an estimator is asked about


def from_linear(
    model: LatentModel | None, estimator: Any, output: str = "mean", mask: np.ndarray | None = None
) -> Classifier:
    """The encoder and a fitted linear classifier of its features as one Keras model, the latter as its dense head.

    Its classes are in the order of `classes_`, whose names it has as `class_names`. The most probable one is what
    `predict` says. Of a `LogisticRegression`, probabilities are those of `predict_proba`; of others, which have none
    or normalise each class by itself, the softmax of the decision function. Of two classes, the logits are 0 and the
    decision function. The model can be exported (`kvae.export.export`), or trained further, as any `Classifier`: a
    linear head first and the encoder after it is what Kumar et al. 2022 advise (https://arxiv.org/abs/2202.10054).

    Args:
        model: a `kvae.VAE` or `kvae.Autoencoder` without conditions, of which the encoder is copied; None takes that of
            the `VAETransformer` in `estimator`.
        estimator: a fitted linear classifier of scikit-learn (`LogisticRegression`, `LinearSVC`, `RidgeClassifier`,
            `SGDClassifier`, …), or a `Pipeline` that ends with one. In front of it may be `StandardScaler`, which is
            folded into the weights, and first of all a `VAETransformer`, which says `output` and `mask` itself.
        output: what the estimator was fitted on, as in `classifier`: "mean", "moments", "hidden" or "layers".
        mask: `(F,)` booleans, which of the F features it looks at: it was fitted on these columns alone, or on all with
            0 in the others.

    Raises:
        ValueError: for an estimator that isn't linear or was fitted on other features, for other steps of a pipeline,
            and conditional models.
        sklearn.exceptions.NotFittedError: for an estimator that isn't fitted.

    Example:

        >>> import kvae
        >>> from sklearn.linear_model import LogisticRegression
        >>> x, y = np.random.default_rng(0).random((40, 8, 8, 1), "float32"), np.array(["cat", "dog"] * 20)
        >>> vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
        >>> probe = LogisticRegression().fit(vae.encode_mean(x), y)
        >>> net = from_linear(vae, probe)
        >>> bool(np.allclose(net.predict(x, verbose=0), probe.predict_proba(vae.encode_mean(x)), atol=1e-5))
        True
        >>> net.class_names
        ('cat', 'dog')
    """
    steps = [step for _, step in estimator.steps] if isinstance(estimator, Pipeline) else [estimator]
    steps = [step for step in steps if step is not None and step != "passthrough"]
    for step in steps:
        check_is_fitted(step)
    if isinstance(steps[0], VAETransformer):
        transformer = steps.pop(0)
        if model is not None and model is not transformer.model_:
            raise ValueError(
                "Expected None for `model`, or the `model_` of the VAETransformer that the pipeline begins with. "
                f"Received: another {type(model).__name__}"
            )
        model, output = transformer.model_, transformer.features
        if transformer.mask_inactive and output in ("mean", "moments"):
            mask = np.tile(transformer.active_, {"mean": 1, "moments": 2}[output])
    if model is None:
        raise ValueError("Expected a model, or a pipeline that begins with a VAETransformer. Received: model=None")
    weights, bias, classes = _linear(steps[-1]) if steps else _refused(estimator)
    for step in reversed(steps[:-1]):
        weights, bias = _unscaled(step, weights, bias)
    net = classifier(model, len(classes), output=output, class_names=[str(name) for name in classes])
    net.head.set_weights([_columns(weights, mask, net.head.kernel.shape[0], output).T, bias])
    return net


def _linear(estimator: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights `(C, F)`, bias `(C,)` and classes `(C,)` of an estimator; ValueError if it does something else."""
    weights, classes = (np.asarray(getattr(estimator, name, ())) for name in ("coef_", "classes_"))
    weights = np.atleast_2d(weights)  # of two classes, it may be a vector
    if not weights.size or weights.ndim != 2 or len(weights) != (1 if len(classes) == 2 else len(classes)):
        return _refused(estimator)
    bias = np.broadcast_to(np.asarray(getattr(estimator, "intercept_", 0.0), "float64"), len(weights))
    if len(classes) == 2:  # logits 0 and the decision function
        weights, bias = (np.concatenate([np.zeros_like(part), part]) for part in (weights, bias))
    # What has such attributes need not be linear in them: a support vector machine compares pairs of classes.
    rows = np.random.default_rng(0).normal(size=(PROBES, weights.shape[1]))
    logits = rows @ weights.T + bias
    said = estimator.predict(rows)
    if said.shape != (PROBES,) or not (said == classes[logits.argmax(axis=-1)]).all():
        return _refused(estimator)
    decision, ours = estimator.decision_function(rows), logits if len(classes) > 2 else logits[:, 1]
    if decision.shape != ours.shape or not np.allclose(decision, ours, rtol=1e-4, atol=1e-6):
        return _refused(estimator)
    return weights, bias, classes


def _refused(estimator: Any) -> Any:
    raise ValueError(
        "Argument `estimator` must be a linear classifier of scikit-learn, one class for each row, such as "
        f"LogisticRegression or LinearSVC. Received: {type(estimator).__name__}"
    )


def _unscaled(step: Any, weights: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights and bias for what goes into a `StandardScaler`: w·(x − μ)/σ + b = (w/σ)·x + (b − (w/σ)·μ)."""
    if not isinstance(step, StandardScaler):
        raise ValueError(
            "A pipeline's steps in front of the classifier must be StandardScaler, and a VAETransformer first of all; "
            f"what comes before that is left out by `pipeline[i:]`, and done to the images. Received: "
            f"{type(step).__name__}"
        )
    scaled = weights if step.scale_ is None else weights / step.scale_
    return scaled, bias if step.mean_ is None else bias - scaled @ step.mean_


def _columns(weights: np.ndarray, mask: np.ndarray | None, size: int, output: str) -> np.ndarray:
    """Weights `(C, F)` for all F features, 0 for those that are masked."""
    looked_at = np.ones(size, bool) if mask is None else np.asarray(mask)
    if looked_at.dtype != bool or looked_at.shape != (size,):
        raise ValueError(
            f"Argument `mask` must be {size} booleans, one for each feature. "
            f"Received: shape {looked_at.shape}, dtype {looked_at.dtype}"
        )
    if weights.shape[1] == size:
        return weights * looked_at
    if weights.shape[1] != looked_at.sum():
        raise ValueError(
            f"Expected an estimator fitted on the {looked_at.sum()} features of output={output!r}. "
            f"Received: one fitted on {weights.shape[1]}"
        )
    full = np.zeros((len(weights), size))
    full[:, looked_at] = weights
    return full
