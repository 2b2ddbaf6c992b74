"""`AnomalyDetector`: an outlier detector with the scores of a VAE."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.base import OutlierMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_is_fitted

from kvae import likelihoods
from kvae.distributions import Distribution
from kvae.evaluation.compression import file_bits
from kvae.evaluation.importance import Rows
from kvae.features.estimator import LatentEstimator
from kvae.models import LatentModel

#: the score of a row by criterion; a higher score is more anomalous
CRITERIA = {
    "elbo": "−ELBO: distortion + rate",
    "likelihood": "−log p(x), importance-weighted with `num_samples` samples",
    "distortion": "−E log p(x|z), which the latents don't explain",
    "rate": "distance of the posterior from the prior",
    "typicality": "distance of −log p(x) from its median over the training rows",
    "complexity": "−log p(x) minus the length of a PNG file (images only)",
}


TABLE_STEPS = 1000  # of training the default model of tables, at least: a small table needs more epochs


@dataclass(eq=False, repr=False, kw_only=True)
class AnomalyDetector(OutlierMixin, LatentEstimator):
    """An outlier detector whose scores come from a variational autoencoder.

    It follows scikit-learn's protocol for outlier detectors: `predict` returns 1 for ordinary rows and −1 for outliers,
    `score_samples` is higher for ordinary rows, `decision_function` is positive for them. Fitted on clean data it is a
    novelty detector; fitted on data with some outliers, an outlier detector. Labels are used only to measure its
    accuracy: if `kvae.data.load` has loaded a folder such as MVTec AD's (`train/good`, `test/good`, `test/crack`),
    label 0 is the ordinary class, and larger labels are anomalies (docs/features.md has an example).

    **Likelihoods fail on simpler data.** A model of clothes gives unseen digits a higher likelihood than clothes,
    because digits are smoother (Nalisnick et al. 2019, https://arxiv.org/abs/1810.09136). "elbo" and "likelihood"
    therefore find rows that are more complicated than the training rows, not simpler ones. Two scores correct for it.
    "typicality" is the distance of −log p(x) from its median over the training rows (after Nalisnick et al. 2019,
    https://arxiv.org/abs/1906.02994, for a batch of one). "complexity", for images, is −log p(x) minus the length of
    the image as a PNG file, in nats (Serrà et al. 2020, https://arxiv.org/abs/1909.11480, eq. 1). It requires a
    likelihood of grey levels, or a density; Bernoulli's cross-entropy of grey values is neither.

    **Defaults for tables.** The default model of rows of numbers standardises the columns. Its likelihood is a normal
    distribution with a standard deviation of at least 0.1 for each column, which is a function of z (`DiagonalNormal`):
    a row near a narrow cluster is measured by the width of that cluster. "elbo" is the default, because it counts both
    a row that its latents don't explain (the distortion) and a row whose latents are unusual (the rate). The distortion
    alone can miss a distant cluster, and the rate alone misses a broken dependency between columns. docs/benchmarks.md
    has the tables on which these settings were chosen, results, and failures. A small class of similar rows among the
    training rows is still more likely than other rows: no criterion is reliable there. A `model` or an `image_shape`
    turns the scaling off.

    Args:
        latent_dim: D.
        criterion: one of "elbo", "likelihood", "distortion", "rate", "typicality", "complexity". With "complexity", the
            default model of images has a likelihood of 256 grey levels instead of Bernoulli.
        contamination: share of the training rows beyond the threshold, above 0 and at most 0.5.
        model, image_shape, units, batch_size, patience, validation_fraction, random_state, verbose: settings of
            the model and its training, as in `kvae.features.VAETransformer`.
        epochs: None is 30, and for the default model of tables at least as many as 1,000 steps require.
        learning_rate: of Adam; None is 3e-3 for the default model of tables, and 1e-3 for others.
        num_samples: number of posterior samples for each row. All rows and calls share the samples.
        proposal: distribution of the samples of −log p(x), "posterior", or "refined" for samples closer to p(z|x)
            (`kvae.evaluation.score_images`).

    Attributes:
        model_: the trained model.
        offset_: the threshold: `decision_function` is `score_samples` minus it.
        typical_: median of −log p(x) over the training rows, in nats.
        scaler_: the `StandardScaler` of the columns for the default model of tables, or None. Densities are those of
            the scaled columns.
        n_features_in_: number of columns of X.

    Example:

        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(300, 4)) * [1, 1, 0.1, 0.1]
        >>> detector = AnomalyDetector(latent_dim=2, epochs=20, random_state=0).fit(x)
        >>> detector.predict([[0, 0, 0, 0], [0, 0, 3, -3]]).tolist()
        [1, -1]
    """

    criterion: str = "elbo"
    contamination: float = 0.1
    epochs: int | None = None
    learning_rate: float | None = None

    offset_: float = field(init=False)
    typical_: float = field(init=False)
    scaler_: StandardScaler | None = field(init=False)

    def fit(self, X: Any, y: Any = None) -> "AnomalyDetector":
        """Train the model, and set the threshold from the scores of X.

        Args:
            X: rows `(N, features)`, or images `(N, H, W)` or `(N, H, W, C)`.
            y: ignored.

        Raises:
            ValueError: if a setting is out of range, if the rows don't fit the model, or if the criterion is undefined
                for the model.
        """
        if self.criterion not in CRITERIA:
            raise ValueError(
                f"Argument `criterion` must be one of {', '.join(map(repr, CRITERIA))}. Received: {self.criterion!r}"
            )
        if not 0 < self.contamination <= 0.5:
            raise ValueError(
                f"Argument `contamination` must be above 0 and at most 0.5. Received: {self.contamination}"
            )
        super().fit(X, y)
        images = self._images(self._validate(X))
        rows = self._scores(images)
        self.typical_ = float(np.median(rows["nll"]))
        self.offset_ = float(np.percentile(-self._anomaly(rows, images)[self.criterion](), 100 * self.contamination))
        return self

    def score_samples(self, X: Any) -> np.ndarray:
        """Return the negated score of each row, `(N,)` in nats: higher is more ordinary."""
        check_is_fitted(self)
        images = self._images(self._validate(X))
        return -self._anomaly(self._scores(images), images)[self.criterion]()

    def score_by_criterion(self, X: Any) -> dict[str, np.ndarray]:
        """Return `score_samples` for every criterion, `(N,)` each, in one pass.

        "complexity" is left out unless the rows are images of 1 or 3 channels and the likelihood isn't Bernoulli.
        """
        check_is_fitted(self)
        images = self._images(self._validate(X))
        scores = self._anomaly(self._scores(images), images)
        compressible = _complexity_problem(self.model_) is None
        return {name: -score() for name, score in scores.items() if compressible or name != "complexity"}

    def contributions(self, X: Any) -> np.ndarray:
        """Return how much each column or pixel contributes to the anomaly score: the shape of X, in nats.

        The contributions of a row sum to its score, −`score_samples`. An entry x_i contributes its part of the
        distortion, −E log p(x_i|z), with z from q(z|x). The rate of "elbo" belongs to no entry, and is shared equally:
        it doesn't change the order of the entries. In a likelihood with dependent channels
        (`DiscretizedLogisticMixture`), the channels of a pixel share its part equally.

        Raises:
            ValueError: for another criterion than "elbo" and "distortion", or for a likelihood whose entries depend on
                each other (`LowRankNormal`).

        Example:

            >>> x = np.random.default_rng(0).normal(size=(300, 4))
            >>> detector = AnomalyDetector(latent_dim=2, epochs=5, random_state=0).fit(x)
            >>> int(detector.contributions([[0, 0, 6, 0]])[0].argmax())
            2
        """
        check_is_fitted(self)
        if self.criterion not in ("elbo", "distortion"):
            raise ValueError(
                "Expected criterion='elbo' or 'distortion', which are sums over the entries of a row. "
                f"Received: criterion={self.criterion!r}; change it with `set_params(criterion='elbo')`"
            )
        images = self._images(self._validate(X))
        score = self._anomaly(self._scores(images), images)[self.criterion]()
        entries = self._samplers["posterior", self.num_samples].entry_distortions(images)
        entries = np.broadcast_to(entries * (entries[0].size / images[0].size), images.shape).reshape(len(images), -1)
        rest = score - entries.sum(axis=1)
        return (entries + rest[:, None] / entries.shape[1]).reshape(-1, *self.row_shape_)

    def decision_function(self, X: Any) -> np.ndarray:
        """Return `score_samples(X) - offset_`, `(N,)`: negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """Return 1 for ordinary rows and −1 for outliers, `(N,)`."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _validate(self, X: Any, reset: bool = False) -> np.ndarray:
        X = super()._validate(X, reset)
        if reset:
            self.scaler_ = StandardScaler().fit(X) if self._is_default_of_tables(X.shape[1:]) else None
        return X if self.scaler_ is None else self.scaler_.transform(X)

    def _is_default_of_tables(self, row_shape: tuple[int, ...]) -> bool:
        return self.model is None and self.image_shape is None and len(row_shape) == 1

    def _training(self, rows: int) -> tuple[Any, Any]:
        epochs, learning_rate = 30, 1e-3
        if self._is_default_of_tables(self.row_shape_):
            steps = max(1, -(-rows // self.batch_size))  # of an epoch
            epochs, learning_rate = max(epochs, -(-TABLE_STEPS // steps)), 3e-3
        return (
            epochs if self.epochs is None else self.epochs,
            learning_rate if self.learning_rate is None else self.learning_rate,
        )

    def _table_likelihood(self) -> Distribution:
        return likelihoods.DiagonalNormal(min_scale=0.1)

    def _likelihood(self) -> Distribution:
        return likelihoods.DiscretizedLogistic(levels=256) if self.criterion == "complexity" else super()._likelihood()

    def _make(self, rows: int) -> LatentModel:
        model = super()._make(rows)
        if not hasattr(model, "prior"):
            raise ValueError(f"Expected a model with a prior, not an Autoencoder. Received: model={self.model!r}")
        if self.criterion == "complexity" and (problem := _complexity_problem(model)):
            raise ValueError(problem)
        return model

    def _anomaly(self, rows: Rows, images: np.ndarray) -> dict[str, Callable[[], np.ndarray]]:
        return {
            "elbo": lambda: rows["distortion"] + rows["rate"],
            "likelihood": lambda: rows["nll"],
            "distortion": lambda: rows["distortion"],
            "rate": lambda: rows["rate"],
            "typicality": lambda: np.abs(rows["nll"] - self.typical_),
            "complexity": lambda: rows["nll"] - png_nats(images),
        }


def _complexity_problem(model: LatentModel) -> str | None:
    """Return why the criterion "complexity" is undefined for a model, or None."""
    if not model.bounded:
        return "criterion='complexity' requires images in [0, 1]. Received: rows of numbers"
    if model.image_shape[-1] not in (1, 3):
        return f"criterion='complexity' requires images of 1 or 3 channels. Received: images {model.image_shape}"
    if model.likelihood.support == "binary":
        return (
            "criterion='complexity' requires a likelihood that can be compared with the length of a file, such as "
            "kvae.likelihoods.DiscretizedLogistic(), not one of binary values. "
            f"Received: likelihood={type(model.likelihood).__name__}"
        )
    return None


def png_nats(images: np.ndarray) -> np.ndarray:
    """Return the length of each image as an 8-bit PNG file, `(N,)` in nats.

    Args:
        images: `(N, H, W, C)` in [0, 1], with 1 or 3 channels.

    Raises:
        ValueError: if the images have another shape.

    Example:

        >>> flat, noise = np.zeros((28, 28, 1)), np.random.default_rng(0).random((28, 28, 1))
        >>> bool(png_nats(np.stack([flat, noise]))[1] > 5 * png_nats(flat[None])[0])
        True
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"Expected images (N, H, W, C) of 1 or 3 channels. Received: shape {images.shape}")
    levels = np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)
    options = {"format": "png", "optimize": True}
    return np.array([math.log(2) * file_bits(image, False, options) for image in levels])
