"""scikit-learn's linear classifiers on an encoder's features, as one Keras model."""

from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from kvae.features.classifiers import Classifier, classifier
from kvae.features.transformer import VAETransformer
from kvae.models import LatentModel

PROBES = 16  # random rows on which an estimator is checked


def from_linear(
    model: LatentModel | None, estimator: Any, output: str = "mean", mask: np.ndarray | None = None
) -> Classifier:
    """Make one Keras model of the encoder and a fitted linear classifier, which becomes its dense head.

    The classes are in the order of `classes_`, and `class_names` has their names. The most probable class is the result
    of `predict`. For a `LogisticRegression`, the probabilities are those of `predict_proba`. Other estimators have no
    probabilities, or normalise each class by itself: the probabilities are then the softmax of the decision function.
    With two classes, the logits are 0 and the decision function. The model can be exported (`kvae.export.export`), or
    trained further like any `Classifier`: Kumar et al. 2022 advise to fit a linear head first and the encoder after it
    (https://arxiv.org/abs/2202.10054).

    Args:
        model: a `kvae.VAE` or `kvae.Autoencoder` without conditions, whose encoder is copied; None takes the model of
            the `VAETransformer` in `estimator`.
        estimator: a fitted linear classifier of scikit-learn (`LogisticRegression`, `LinearSVC`, `RidgeClassifier`,
            `SGDClassifier`, …), or a `Pipeline` that ends with one. Steps before it may be `StandardScaler`, which is
            folded into the weights. The first step may be a `VAETransformer`, which sets `output` and `mask`.
        output: features on which the estimator was fitted, as in `classifier`: "mean", "moments", "hidden" or "layers".
        mask: `(F,)` booleans, which of the F features the estimator uses. It was fitted on these columns alone, or on
            all columns with 0 in the others.

    Raises:
        ValueError: if the estimator isn't linear or was fitted on other features, if the pipeline has other steps, or
            if the model is conditional.
        sklearn.exceptions.NotFittedError: if the estimator isn't fitted.

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
                "Expected None for `model`, or the `model_` of the pipeline's VAETransformer. "
                f"Received: another {type(model).__name__}"
            )
        model, output = transformer.model_, transformer.features
        if transformer.mask_inactive and output in ("mean", "moments"):
            mask = np.tile(transformer.active_, {"mean": 1, "moments": 2}[output])
    if model is None:
        raise ValueError("Expected a model, or a pipeline that begins with a VAETransformer. Received: model=None")
    weights, bias, classes = _linear(steps[-1]) if steps else _refuse(estimator)
    for step in reversed(steps[:-1]):
        weights, bias = _unscaled(step, weights, bias)
    net = classifier(model, len(classes), output=output, class_names=[str(name) for name in classes])
    net.head.set_weights([_unmasked(weights, mask, net.head.kernel.shape[0], output).T, bias])
    return net


def _linear(estimator: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return weights `(C, F)`, bias `(C,)` and classes `(C,)`; raise ValueError unless the estimator is linear."""
    weights, classes = (np.asarray(getattr(estimator, name, ())) for name in ("coef_", "classes_"))
    weights = np.atleast_2d(weights)  # with two classes, it may be a vector
    if not weights.size or weights.ndim != 2 or len(weights) != (1 if len(classes) == 2 else len(classes)):
        return _refuse(estimator)
    bias = np.broadcast_to(np.asarray(getattr(estimator, "intercept_", 0.0), "float64"), len(weights))
    if len(classes) == 2:  # logits 0 and the decision function
        weights, bias = (np.concatenate([np.zeros_like(part), part]) for part in (weights, bias))
    # An estimator with these attributes may not be linear: a support vector machine compares pairs of classes.
    rows = np.random.default_rng(0).normal(size=(PROBES, weights.shape[1]))
    logits = rows @ weights.T + bias
    predicted = estimator.predict(rows)
    if predicted.shape != (PROBES,) or not (predicted == classes[logits.argmax(axis=-1)]).all():
        return _refuse(estimator)
    decision, ours = estimator.decision_function(rows), logits if len(classes) > 2 else logits[:, 1]
    if decision.shape != ours.shape or not np.allclose(decision, ours, rtol=1e-4, atol=1e-6):
        return _refuse(estimator)
    return weights, bias, classes


def _refuse(estimator: Any) -> Any:
    raise ValueError(
        "Argument `estimator` must be a linear classifier of scikit-learn, one class for each row, such as "
        f"LogisticRegression or LinearSVC. Received: {type(estimator).__name__}"
    )


def _unscaled(step: Any, weights: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return weights and bias for the input of a `StandardScaler`: w·(x − μ)/σ + b = (w/σ)·x + (b − (w/σ)·μ)."""
    if not isinstance(step, StandardScaler):
        raise ValueError(
            "Expected a pipeline of an optional VAETransformer, StandardScaler steps and the classifier. "
            f"Received: {type(step).__name__}; leave out earlier steps with `pipeline[i:]`, and apply them to the "
            "images yourself"
        )
    scaled = weights if step.scale_ is None else weights / step.scale_
    return scaled, bias if step.mean_ is None else bias - scaled @ step.mean_


def _unmasked(weights: np.ndarray, mask: np.ndarray | None, size: int, output: str) -> np.ndarray:
    """Return weights `(C, F)` for all F features, 0 for masked ones."""
    used = np.ones(size, bool) if mask is None else np.asarray(mask)
    if used.dtype != bool or used.shape != (size,):
        raise ValueError(
            f"Argument `mask` must be {size} booleans, one for each feature. "
            f"Received: shape {used.shape}, dtype {used.dtype}"
        )
    if weights.shape[1] == size:
        return weights * used
    if weights.shape[1] != used.sum():
        raise ValueError(
            f"Expected an estimator fitted on the {used.sum()} features of output={output!r}. "
            f"Received: an estimator fitted on {weights.shape[1]} features"
        )
    full = np.zeros((len(weights), size))
    full[:, used] = weights
    return full
