"""`VAETransformer`: the encoder as a scikit-learn transformer."""

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_array, check_is_fitted

from kvae.features.estimator import LatentEstimator
from kvae.features.outputs import OUTPUTS, encoder_output
from kvae.models import LatentModel
from kvae.models.metrics import ACTIVE_VARIANCE


def _is_generative(estimator: Any) -> bool:
    """Return whether the estimator has scores, or will have them after `fit`."""
    model = getattr(estimator, "model_", estimator.model)
    return hasattr(model, "prior") or not isinstance(model, LatentModel)


@dataclass(eq=False, repr=False, kw_only=True)
class VAETransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, LatentEstimator):
    """Features of a variational autoencoder as a scikit-learn transformer.

    `fit` trains a `kvae.VAE` on X, and `transform` returns the encoder's features of X. It works in a `Pipeline`, in
    `GridSearchCV` and with `clone`; pickling saves the model as the bytes of a `.keras` file. A row's features depend
    on this row alone. X is never scaled: for tables put a `StandardScaler` before it. The default model of rows of
    numbers has dense networks and a normal likelihood with a learned scale, that of series convolutions along time and
    the same likelihood; the default model of images (in [0, 1]) has the default networks of `kvae.VAE`.

    Args:
        latent_dim: D.
        features: "mean", the latent means; "moments", means and variances; "hidden", the last hidden layer; "layers",
            all hidden layers.
        mask_inactive: whether to set latents to 0 that fail the active-unit test on the training rows (the variance of
            their means is not above 0.01, Burda et al. 2016). Their variation is noise, which a later scaling would
            amplify. The option affects "mean" and "moments" of a VAE.
        model: the model to train instead of the default: a `kvae.VAE` or `kvae.Autoencoder`, whose copy is trained
            further (or used unchanged, with epochs=0); a function of `(event_shape, latent_dim)`; or the name of a
            recipe.
        event_shape: shape of an event, for flat rows and for series `(T, F)`; otherwise, arrays `(N, H, W)` are grey
            images.
        image_shape: another name of event_shape, for images.
        units: widths of the default dense networks.
        epochs, batch_size, learning_rate: settings of the training with Adam.
        patience: None trains for all epochs; a number stops after this many epochs without a better bound on the
            validation rows, and restores the best weights.
        validation_fraction: share of the rows used for validation by `patience`.
        num_samples: K of `score_samples`.
        proposal: distribution of the samples of `score_samples`, "posterior" or "refined"
            (`kvae.evaluation.score_images`).
        random_state: seed of the weights, the order of the rows and the noise. An integer makes `fit` reproducible.
        verbose: as in `keras.Model.fit`.

    Attributes:
        model_: the trained model.
        history_: metrics of `fit` by epoch, in nats.
        n_iter_: number of epochs run.
        active_: `(D,)`, which latents pass the active-unit test.
        n_features_in_: number of columns of X.

    Example:

        >>> from sklearn.datasets import load_iris
        >>> from sklearn.linear_model import LogisticRegression
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> x, y = load_iris(return_X_y=True)
        >>> features = VAETransformer(latent_dim=2, epochs=60, random_state=0)
        >>> pipeline = make_pipeline(StandardScaler(), features, LogisticRegression()).fit(x, y)
        >>> bool(pipeline.score(x, y) > 0.8)
        True
    """

    features: str = "mean"
    mask_inactive: bool = True

    active_: np.ndarray = field(init=False)

    def fit(self, X: Any, y: Any = None) -> "VAETransformer":
        """Train the model, and find its active latents.

        Args:
            X: rows `(N, features)`; images `(N, H, W)` or `(N, H, W, C)`; or, with `event_shape=(T, F)`, series
                `(N, T, F)`.
            y: ignored.

        Raises:
            ValueError: if a setting is out of range, or the rows don't fit the model.
        """
        if self.features not in OUTPUTS:
            raise ValueError(
                f"Argument `features` must be one of {', '.join(map(repr, OUTPUTS))}. "
                f"Received: features={self.features!r}"
            )
        super().fit(X, y)
        images = self._images(self._validate(X))
        means = self._rows(self._encode("mean"), images)
        self.active_ = means.var(axis=0) > ACTIVE_VARIANCE
        if not hasattr(self.model_, "prior"):
            self.active_[:] = True  # an autoencoder's latents have no scale
        elif len(images) > 1 and not self.active_.any():
            warnings.warn(
                "No latent is active: the posterior has collapsed, and the latents carry no information about X. Train "
                "longer (`epochs`), scale X, or lower the cost of the rate (an objective with a small β or free bits).",
                ConvergenceWarning,
                stacklevel=2,
            )
        self.size_ = self._rows(self._encode(self.features), images[:1]).shape[1]
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return the features of X, `(N, size)` float32."""
        check_is_fitted(self)
        features = self._rows(self._encode(self.features), self._images(self._validate(X)))
        if self.mask_inactive and self.features in ("mean", "moments"):
            features = np.where(np.tile(self.active_, features.shape[1] // len(self.active_)), features, np.float32(0))
        return features

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Return the mean of x for latents `(N, D)`, in the shape of the training rows.

        Raises:
            ValueError: if `features` isn't "mean", or the number of latents is wrong.
        """
        check_is_fitted(self)
        if self.features != "mean":
            raise ValueError(f"Expected features='mean': only means can be decoded. Received: {self.features!r}")
        z = check_array(X, dtype=np.float32)
        if z.shape[1] != self.model_.latent_dim:
            raise ValueError(f"Expected {self.model_.latent_dim} latents in each row. Received: {z.shape[1]}")
        return self._rows(self.model_.decode, z).reshape(-1, *self.row_shape_)

    @available_if(_is_generative)
    def score_samples(self, X: Any) -> np.ndarray:
        """Return an importance-weighted estimate of log p(x) of each row, with `num_samples` samples, `(N,)` in nats.

        All rows share the noise of the posterior samples, so that a row's score doesn't depend on the others (Burda et
        al. 2016, https://arxiv.org/abs/1509.00519, eq. 8).
        """
        check_is_fitted(self)
        return -self._scores(self._images(self._validate(X)))["nll"]

    @available_if(_is_generative)
    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean of `score_samples`, which `GridSearchCV` maximises."""
        return float(np.mean(self.score_samples(X)))

    def _encode(self, output: str) -> Any:
        model = self.model_
        return lambda images: encoder_output(model, model.encoder_input(model.check_images(images)), output)

    @property
    def _n_features_out(self) -> int:
        return self.size_

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
