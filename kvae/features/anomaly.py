"""`AnomalyDetector`: what the model finds unlikely, or untypical."""

import io
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.base import OutlierMixin
from sklearn.utils.validation import check_is_fitted

from kvae import likelihoods
from kvae.distributions import Distribution
from kvae.evaluation.importance import Rows
from kvae.features.estimator import LatentEstimator
from kvae.models import LatentModel

#: score: what it is, for one row; the higher, the more anomalous
CRITERIA = {
    "elbo": "−ELBO: distortion + rate",
    "likelihood": "−log p(x), importance-weighted with `num_samples` samples",
    "distortion": "what the latents don't explain: −E log p(x|z)",
    "rate": "how far the posterior is from the prior",
    "typicality": "how far −log p(x) is from that of ordinary rows, on either side",
    "complexity": "−log p(x) less what a lossless compressor (PNG) takes: for images",
}


class AnomalyDetector(OutlierMixin, LatentEstimator):
    """Outliers are what a variational autoencoder, trained on ordinary rows, gives a bad score.

    It follows scikit-learn's protocol for outlier detectors: `predict` gives 1 for ordinary rows and −1 for outliers,
    `score_samples` is higher for ordinary ones, `decision_function` is positive for them. Fitted on clean data it is a
    novelty detector; fitted on data with some outliers, an outlier detector. Labels only measure it: where
    `kvae.data.load` has taken a folder such as MVTec AD's (`train/good`, `test/good`, `test/crack`), 0 is the ordinary
    class, and larger ones are anomalies (docs/features.md has an example).

    **Likelihoods fail on simpler data.** A model of clothes gives digits, which it never saw, a higher likelihood than
    clothes: they are smoother (Nalisnick et al. 2019, https://arxiv.org/abs/1810.09136). So "elbo" and "likelihood"
    find rows that are more complicated than the training rows, not simpler ones. Two scores correct for it:
    "typicality", the distance of −log p(x) from its median over the training rows (after Nalisnick et al. 2019,
    https://arxiv.org/abs/1906.02994, for a batch of one); and, for images, "complexity": −log p(x) less the length of
    the image as a PNG file, in nats (Serrà et al. 2020, https://arxiv.org/abs/1909.11480, eq. 1). The latter takes a
    likelihood of grey levels, or a density; Bernoulli's cross-entropy of grey values is neither.

    Args:
        latent_dim: D.
        criterion: one of "elbo", "likelihood", "distortion", "rate", "typicality", "complexity". With the last, the
            model of images that is made where none is given has a likelihood of 256 grey levels, not Bernoulli's.
        contamination: share of the training rows that is beyond the threshold, above 0 and at most 0.5.
        model, image_shape, units, epochs, batch_size, learning_rate, patience, validation_fraction, random_state,
            verbose: of the model and its training, as in `kvae.features.VAETransformer`.
        num_samples: posterior samples for each row. They are the same for all rows and calls.

    Attributes:
        model_: the trained model.
        offset_: the threshold: `decision_function` is `score_samples` less it.
        typical_: median of −log p(x) over the training rows, in nats.
        n_features_in_: columns of X.

    Example:

        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(300, 4)) * [1, 1, 0.1, 0.1]
        >>> detector = AnomalyDetector(latent_dim=2, epochs=20, random_state=0).fit(x)
        >>> detector.predict([[0, 0, 0, 0], [0, 0, 3, -3]]).tolist()
        [1, -1]
    """

    offset_: float
    typical_: float

    def __init__(
        self,
        latent_dim: int = 8,
        *,
        criterion: str = "elbo",
        contamination: float = 0.1,
        model: Any = None,
        image_shape: tuple[int, int, int] | None = None,
        units: tuple[int, ...] = (128, 128),
        epochs: int = 30,
        batch_size: int = 64,
        learning_rate: float = 1e-3,
        patience: int | None = None,
        validation_fraction: float = 0.1,
        num_samples: int = 16,
        random_state: Any = None,
        verbose: int = 0,
    ):
        super().__init__(
            latent_dim, model=model, image_shape=image_shape, units=units, epochs=epochs, batch_size=batch_size,
            learning_rate=learning_rate, patience=patience, validation_fraction=validation_fraction,
            num_samples=num_samples, random_state=random_state, verbose=verbose,
        )  # fmt: skip
        self.criterion = criterion
        self.contamination = contamination

    def fit(self, X: Any, y: Any = None) -> "AnomalyDetector":
        """Train the model, and set the threshold by the scores of X.

        Args:
            X: rows `(N, features)`, or images `(N, H, W)` or `(N, H, W, C)`.
            y: is not looked at.

        Raises:
            ValueError: for settings out of range, rows that the model can't take, and a model that the criterion means
                nothing for.
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
        """The negated score of each row, `(N,)` in nats: higher is more ordinary."""
        check_is_fitted(self)
        images = self._images(self._validate(X))
        return -self._anomaly(self._scores(images), images)[self.criterion]()

    def score_by_criterion(self, X: Any) -> dict[str, np.ndarray]:
        """`score_samples` by every criterion, from one pass: `(N,)` each.

        (By "complexity" only of images of 1 or 3 channels, and of models whose likelihood isn't Bernoulli's.)
        """
        check_is_fitted(self)
        images = self._images(self._validate(X))
        scores = self._anomaly(self._scores(images), images)
        compressible = _no_complexity(self.model_) is None
        return {name: -score() for name, score in scores.items() if compressible or name != "complexity"}

    def decision_function(self, X: Any) -> np.ndarray:
        """`score_samples(X) - offset_`, `(N,)`: negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """1 for ordinary rows, −1 for outliers, `(N,)`."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _likelihood(self) -> Distribution:
        return likelihoods.DiscretizedLogistic(levels=256) if self.criterion == "complexity" else super()._likelihood()

    def _make(self, rows: int) -> LatentModel:
        model = super()._make(rows)
        if not hasattr(model, "prior"):
            raise ValueError(f"Scores need a prior, which an Autoencoder hasn't. Received: model={self.model!r}")
        if self.criterion == "complexity" and (reason := _no_complexity(model)):
            raise ValueError(reason)
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


def _no_complexity(model: LatentModel) -> str | None:
    """Why the criterion "complexity" means nothing for a model; None if it does mean something."""
    if not model.bounded:
        return "criterion='complexity' is for images in [0, 1], which PNG can keep. Received: rows of numbers"
    if model.image_shape[-1] not in (1, 3):
        return f"criterion='complexity' is for images of 1 or 3 channels. Received: images {model.image_shape}"
    if model.likelihood.support == "binary":
        return (
            "criterion='complexity' needs a likelihood that a file's length can be held against, such as "
            "kvae.likelihoods.DiscretizedLogistic(), not one of binary values. "
            f"Received: likelihood={type(model.likelihood).__name__}"
        )
    return None


def png_nats(images: np.ndarray) -> np.ndarray:
    """Length of each image `(H, W, C)` in [0, 1], of 1 or 3 channels, as a PNG file of 8 bits, in nats, `(N,)`.

    Raises:
        ValueError: for other shapes.

    Example:

        >>> flat, noise = np.zeros((28, 28, 1)), np.random.default_rng(0).random((28, 28, 1))
        >>> bool(png_nats(np.stack([flat, noise]))[1] > 5 * png_nats(flat[None])[0])
        True
    """
    from PIL import Image

    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(f"Expected images (N, H, W, C) of 1 or 3 channels. Received: shape {images.shape}")
    levels = np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)
    sizes = []
    for image in levels:
        file = io.BytesIO()
        Image.fromarray(image if image.shape[-1] == 3 else image[..., 0]).save(file, "png", optimize=True)
        sizes.append(8 * math.log(2) * file.tell())
    return np.array(sizes)
