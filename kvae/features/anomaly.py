"""`AnomalyDetector`: an outlier detector with the scores of a VAE."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats
from sklearn.base import OutlierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d

from kvae import likelihoods
from kvae.distributions import Distribution
from kvae.evaluation.compression import file_bits
from kvae.evaluation.importance import Rows
from kvae.features.estimator import LatentEstimator
from kvae.features.synthetic_anomalies import auroc_by_criterion, synthetic_anomalies
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


CHOSEN_ON = 256  # training images from which the synthetic anomalies of the choice of a criterion are made
LEAST_STEPS = 1000  # of training the default model of rows or series, at least, unless validation stops it
PATIENCE = 10  # epochs, of the default model of rows


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

    **Which score.** criterion="auto" is "elbo" for rows and series. For images it chooses without a known anomaly: from
    256 training images it makes blurred, shuffled and patched ones (`synthetic_anomalies`), and takes the criterion
    whose smallest AUROC over the three kinds is the largest, so that neither simpler nor more complicated images nor
    local defects are missed. `criterion_` is the choice, and `criterion_auroc_` has the numbers.

    **A promised false-alarm rate.** `contamination` sets the threshold on rows that the model was trained on, so the
    share of alarms on new ordinary rows is unknown. With `alpha`, `fit` holds out n rows for calibration, and the
    p-value of a row with score s (higher is more anomalous) is the conformal p-value of Bates et al. 2023,
    https://arxiv.org/abs/2104.08279,

        p = (1 + #{calibration scores >= s}) / (n + 1).

    If the new ordinary rows are exchangeable with the calibration rows, P(p <= a) <= a for every a, for any model and
    any criterion, and `predict` gives a false alarm with probability at most `alpha`. This holds on average over the
    calibration rows; `false_alarm_interval` tells how far the rate of this detector may be from it. With several
    classes of ordinary rows, a rare class may have far more false alarms than `alpha`: `by_class` compares a row with
    each class separately and takes the largest p-value, so that the promise holds for each class.

    **Defaults for tables and series.** The default model of rows of numbers standardises the columns, and that of
    series standardises the features (`Scaled`). Its likelihood is a normal distribution with a standard deviation of at
    least 0.1 for each value, which is a function of z (`DiagonalNormal`): a row near a narrow cluster is measured by
    the width of that cluster. "elbo" is the default, because it counts both a row that its latents don't explain (the
    distortion) and a row whose latents are unusual (the rate). The distortion alone can miss a distant cluster, and the
    rate alone misses a broken dependency between columns. docs/benchmarks.md has the tables on which these settings
    were chosen, results, and failures. A small class of similar rows among the training rows is still more likely than
    other rows: no criterion is reliable there. A `model` or the shape of an image turns the scaling off.

    Args:
        latent_dim: D.
        criterion: one of "auto", "elbo", "likelihood", "distortion", "rate", "typicality", "complexity". With "auto" or
            "complexity", the default model of grey or colour images has a likelihood of 256 levels instead of
            Bernoulli, unless all values are 0 or 1.
        contamination: share of the training rows beyond the threshold, above 0 and at most 0.5; not used with `alpha`.
        alpha: largest probability of a false alarm, between 0 and 1; None sets the threshold by `contamination`.
        calibration_fraction: share of the rows of X that is held out for calibration with `alpha`, chosen by the seed;
            with `by_class`, the same share of each class. The model isn't trained on these rows.
        by_class: whether `alpha` holds for each class of ordinary rows; `fit` then requires the classes, `y`.
        model, event_shape, image_shape, units, batch_size, random_state, verbose: settings of the model and its
            training, as in `kvae.features.VAETransformer`.
        epochs: None is 30, and for the default model of rows or series at least as many as 1,000 steps require.
        patience: epochs without a better bound on the validation rows after which training stops and restores the best
            weights; None trains for all epochs. "auto" is 10 for the default model of rows, which would otherwise learn
            few rows by heart, outliers among them included, and None for others.
        validation_fraction: share of the rows used for validation by `patience`.
        learning_rate: of Adam; None is 3e-3 for the default model of rows, and 1e-3 for others.
        num_samples: number of posterior samples for each row. All rows and calls share the samples.
        proposal: distribution of the samples of −log p(x), "posterior", or "refined" for samples closer to p(z|x)
            (`kvae.evaluation.score_images`).

    Attributes:
        model_: the trained model.
        offset_: the threshold: `decision_function` is `score_samples` minus it.
        criterion_: the criterion in use.
        criterion_auroc_: with criterion="auto", for images, AUROC by criterion and kind of synthetic anomaly.
        typical_: median of −log p(x) over the training rows, in nats.
        calibration_rows_, calibration_scores_: with `alpha`, by class, the indices of the calibration rows in X and
            their scores in nats, both ascending; without `by_class`, the only key is None.
        n_features_in_: number of columns of X.

    Example:

        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(300, 4)) * [1, 1, 0.1, 0.1]
        >>> detector = AnomalyDetector(latent_dim=2, epochs=20, random_state=0).fit(x)
        >>> detector.predict([[0, 0, 0, 0], [0, 0, 3, -3]]).tolist()
        [1, -1]
        >>> detector = AnomalyDetector(latent_dim=2, epochs=20, alpha=0.05, random_state=0).fit(x)
        >>> detector.p_values([[0, 0, 3, -3]]).round(3).tolist()  # 60 calibration rows: 1/61 is the smallest p-value
        [0.016]
    """

    criterion: str = "auto"
    contamination: float = 0.1
    alpha: float | None = None
    calibration_fraction: float = 0.2
    by_class: bool = False
    epochs: int | None = None
    learning_rate: float | None = None
    patience: Any = "auto"
    validation_fraction: float = 0.2

    offset_: float = field(init=False)
    criterion_: str = field(init=False)
    criterion_auroc_: dict[str, dict[str, float]] = field(init=False)
    typical_: float = field(init=False)
    calibration_rows_: dict[Any, np.ndarray] = field(init=False)
    calibration_scores_: dict[Any, np.ndarray] = field(init=False)

    def fit(self, X: Any, y: Any = None) -> "AnomalyDetector":
        """Train the model, and set the threshold from the scores of X.

        Args:
            X: rows `(N, features)`; images `(N, H, W)` or `(N, H, W, C)`; or, with `event_shape=(T, F)`, series
                `(N, T, F)`.
            y: with `by_class`, the class of each row, `(N,)`; otherwise ignored.

        Raises:
            ValueError: if a setting is out of range, if the rows don't fit the model, if the criterion is undefined
                for the model, or if there are too few calibration rows for an alarm at `alpha`.
        """
        if self.criterion not in ("auto", *CRITERIA):
            known = ", ".join(map(repr, ("auto", *CRITERIA)))
            raise ValueError(f"Argument `criterion` must be one of {known}. Received: {self.criterion!r}")
        if not 0 < self.contamination <= 0.5:
            raise ValueError(
                f"Argument `contamination` must be above 0 and at most 0.5. Received: {self.contamination}"
            )
        if self.alpha is not None and not 0 < self.alpha < 1:
            raise ValueError(f"Argument `alpha` must be between 0 and 1, or None. Received: alpha={self.alpha}")
        if not 0 < self.calibration_fraction < 1:
            raise ValueError(
                "Argument `calibration_fraction` must be between 0 and 1. "
                f"Received: calibration_fraction={self.calibration_fraction}"
            )
        if self.by_class and self.alpha is None:
            raise ValueError("Argument `by_class` requires `alpha`, whose promise it extends. Received: alpha=None")
        super().fit(X, y)
        images = self._images(self._validate(X))
        held = {label: images[rows] for label, rows in self.calibration_rows_.items()}
        images = images[self._training_rows(len(images), y)]
        rows = self._scores(images)
        self.typical_ = float(np.median(rows["nll"]))
        self._choose(rows, images)
        self.calibration_scores_ = {label: np.sort(self._criterion(x)) for label, x in held.items()}
        if self.alpha is None:
            scores = self._anomaly(rows, images)[self.criterion_]()
            self.offset_ = float(np.percentile(-scores, 100 * self.contamination))
        else:
            # p <= alpha if and only if fewer than k = `alarms` of the calibration scores are as high: if s > the kth.
            kth = [known[-alarms(self.alpha, len(known))] for known in self.calibration_scores_.values()]
            self.offset_ = -float(max(kth))
        return self

    def p_values(self, X: Any) -> np.ndarray:
        """Return the conformal p-value of each row, `(N,)`: the smaller, the more surprising for an ordinary row.

        For ordinary rows, P(p <= a) <= a for every a. The smallest value is 1/(n + 1) for n calibration rows. With
        `by_class`, it is the largest p-value over the classes: small only for rows that are unusual for every class.

        Raises:
            ValueError: if the detector was fitted without `alpha`, or the rows don't fit the model.
        """
        check_is_fitted(self)
        calibration = self._calibration()
        scores = self._criterion(self._images(self._validate(X)))
        return np.max([conformal_p_values(known, scores) for known in calibration.values()], axis=0)

    def false_alarm_interval(self, confidence: float = 0.95, label: Any = None) -> tuple[float, float]:
        """Return the interval of the false-alarm rate of this detector, given its n calibration rows.

        Over the draws of the calibration rows, the rate is distributed as Beta(k, n + 1 − k) with k = ⌊alpha · (n + 1)⌋
        (Vovk 2012, https://arxiv.org/abs/1209.2673). More calibration rows make the interval narrower. The rate may
        also be lower if scores are equal, or with `by_class`.

        Args:
            confidence: probability of the interval, with equal tails.
            label: with `by_class`, the class of the ordinary rows.

        Raises:
            ValueError: if the detector was fitted without `alpha`, or the class is unknown.

        Example:

            >>> x = np.random.default_rng(0).normal(size=(500, 4))
            >>> detector = AnomalyDetector(latent_dim=2, units=(8,), epochs=1, alpha=0.05, random_state=0).fit(x)
            >>> low, high = detector.false_alarm_interval()  # of 100 calibration rows
            >>> round(low, 3), round(high, 3)
            (0.016, 0.099)
        """
        check_is_fitted(self)
        calibration = self._calibration()
        if label not in calibration:
            raise ValueError(
                f"Argument `label` must be one of {', '.join(map(repr, calibration))}. Received: label={label!r}"
            )
        assert self.alpha is not None
        n = len(calibration[label])
        k = alarms(self.alpha, n)
        low, high = stats.beta.interval(confidence, k, n + 1 - k)
        return float(low), float(high)

    def score_samples(self, X: Any) -> np.ndarray:
        """Return the negated score of each row, `(N,)` in nats: higher is more ordinary."""
        check_is_fitted(self)
        return -self._criterion(self._images(self._validate(X)))

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
        distortion, −E log p(x_i|z), with z from q(z|x). What the score has besides the distortion belongs to no entry,
        and is shared equally, such as the rate, the length of a file, or the logarithms of the columns' units: it
        doesn't change the order of the entries. In a likelihood with
        dependent channels (`DiscretizedLogisticMixture`), the channels of a pixel share its part equally.

        Raises:
            ValueError: for the criteria "rate" and "typicality", which contain no distortion or not with its sign, or
                for a likelihood whose entries depend on each other (`LowRankNormal`).

        Example:

            >>> x = np.random.default_rng(0).normal(size=(300, 4))
            >>> detector = AnomalyDetector(latent_dim=2, epochs=5, random_state=0).fit(x)
            >>> int(detector.contributions([[0, 0, 6, 0]])[0].argmax())
            2
        """
        check_is_fitted(self)
        criterion = self._criterion_name()
        if criterion in ("rate", "typicality"):
            raise ValueError(
                "Expected a criterion that contains the distortion, which is a sum over the entries of a row. "
                f"Received: criterion={criterion!r}; change it with `set_params(criterion='elbo')`"
            )
        images = self._images(self._validate(X))
        score = self._anomaly(self._scores(images), images)[criterion]()
        entries = self._samplers["posterior", self.num_samples].entry_distortions(images)
        entries = np.broadcast_to(entries * (entries[0].size / images[0].size), images.shape).reshape(len(images), -1)
        rest = score - entries.sum(axis=1)
        return (entries + rest[:, None] / entries.shape[1]).reshape(-1, *self.row_shape_)

    def decision_function(self, X: Any) -> np.ndarray:
        """Return `score_samples(X) - offset_`, `(N,)`: negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """Return 1 for ordinary rows and −1 for outliers, `(N,)`; with `alpha`, outliers have p-values <= alpha."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _training_rows(self, rows: int, y: Any) -> Any:
        self.calibration_rows_ = {}
        if self.alpha is None:
            return super()._training_rows(rows, y)
        rng = np.random.default_rng((self.seed_, 1))  # other numbers than the order of the training rows
        for label, members in self._members(rows, y).items():
            count = min(len(members) - 1, round(self.calibration_fraction * len(members)))
            if not alarms(self.alpha, count):
                least = math.ceil(1 / self.alpha) - 1
                of = "" if label is None else f" of class {label!r}"
                raise ValueError(
                    f"Argument `alpha`={self.alpha:g} requires at least {least} calibration rows{of}, because the "
                    f"smallest p-value of n rows is 1/(n + 1). Received: {len(members)} rows{of}, {count} of them for "
                    f"calibration; pass {math.ceil(max(least / self.calibration_fraction, least + 1))} rows{of}, or "
                    "raise `calibration_fraction` or `alpha`"
                )
            self.calibration_rows_[label] = np.sort(rng.permutation(members)[:count])
        return np.delete(np.arange(rows), np.concatenate(list(self.calibration_rows_.values())))

    def _members(self, rows: int, y: Any) -> dict[Any, np.ndarray]:
        """Return the indices of the rows of each class; without `by_class`, all rows are of class None."""
        if not self.by_class:
            return {None: np.arange(rows)}
        if y is None:
            raise ValueError("Argument `y` must be the class of each row, for `by_class`. Received: y=None")
        labels = column_or_1d(y)
        check_classification_targets(labels)
        if len(labels) != rows:
            raise ValueError(
                f"Argument `y` must be the class of each row. Received: {len(labels)} classes, {rows} rows"
            )
        return {label: np.flatnonzero(labels == label) for label in np.unique(labels).tolist()}

    def _calibration(self) -> dict[Any, np.ndarray]:
        if self.alpha is None or not self.calibration_scores_:
            raise ValueError(
                "Expected a detector that was fitted with `alpha`. Received: a threshold by `contamination`"
            )
        return self.calibration_scores_

    def _criterion(self, images: np.ndarray) -> np.ndarray:
        """Return the score of each image by `criterion`, `(N,)`."""
        return self._anomaly(self._scores(images), images)[self._criterion_name()]()

    def _criterion_name(self) -> str:
        """Return the criterion in use, which `set_params` may have changed after `fit`."""
        return self.criterion_ if self.criterion == "auto" else self.criterion

    def _choose(self, rows: Rows, images: np.ndarray) -> None:
        """Set the criterion, given the training rows."""
        self.criterion_, self.criterion_auroc_ = self.criterion, {}
        if self.criterion != "auto":
            return
        self.criterion_ = "elbo"
        if len(images.shape) != 4 or not self.model_.bounded or len(images) < 2:
            return
        images = images[:CHOSEN_ON]
        possible = [name for name in CRITERIA if name != "complexity" or _complexity_problem(self.model_) is None]

        def scores(rows: Rows, images: np.ndarray) -> dict[str, np.ndarray]:
            by_criterion = self._anomaly(rows, images)
            return {name: by_criterion[name]() for name in possible}

        self.criterion_auroc_ = auroc_by_criterion(
            scores({name: values[: len(images)] for name, values in rows.items()}, images),
            {kind: scores(self._scores(made), made) for kind, made in synthetic_anomalies(images, self.seed_).items()},
        )
        self.criterion_ = max(possible, key=lambda name: min(self.criterion_auroc_[name].values()))

    def _default_axes(self) -> int:
        """Return the number of axes of an event of the default model; 0 if another model was given."""
        return 0 if self.model is not None else len(self._shape())

    def _patience(self) -> int | None:
        if self.patience != "auto":
            return self.patience
        return PATIENCE if self._default_axes() == 1 else None

    def _training(self, rows: int) -> tuple[Any, Any]:
        steps = max(1, -(-rows // self.batch_size))  # of an epoch
        epochs = max(30, -(-LEAST_STEPS // steps)) if self._default_axes() in (1, 2) else 30
        learning_rate = 3e-3 if self._default_axes() == 1 else 1e-3
        return (
            epochs if self.epochs is None else self.epochs,
            learning_rate if self.learning_rate is None else self.learning_rate,
        )

    def _likelihood_of_numbers(self, X: np.ndarray) -> Distribution:
        axes = tuple(range(X.ndim - 1))
        location, scale = X.mean(axes, dtype=np.float64), X.std(axes, dtype=np.float64)
        return likelihoods.Scaled(likelihoods.DiagonalNormal(min_scale=0.1), location, np.where(scale > 0, scale, 1.0))

    def _likelihood(self, X: np.ndarray) -> Distribution:
        of_levels = X.shape[-1] in (1, 3) and np.any((X > 0) & (X < 1))
        if self.criterion == "complexity" or (self.criterion == "auto" and of_levels):
            return likelihoods.DiscretizedLogistic(levels=256)
        return super()._likelihood(X)

    def _make(self, X: np.ndarray) -> LatentModel:
        model = super()._make(X)
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


def conformal_p_values(calibration: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return p = (1 + #{calibration scores >= s}) / (n + 1) for each score s; `calibration` `(n,)` is ascending.

    Example:

        >>> conformal_p_values(np.array([1.0, 2.0, 2.0]), np.array([0.0, 2.0, 3.0]))
        array([1.  , 0.75, 0.25])
    """
    n = len(calibration)
    return (1 + n - np.searchsorted(calibration, scores, side="left")) / (n + 1)


def alarms(alpha: float, n: int) -> int:
    """Return how many of the p-values 1/(n + 1), …, 1 of n calibration rows are at most alpha: ⌊alpha · (n + 1)⌋.

    Example:

        >>> alarms(0.29, 99)  # 29/100, although 0.29 * 100 is below 29 in floating point
        29
    """
    return int(np.count_nonzero(np.arange(1, n + 2) / (n + 1) <= alpha))


def _complexity_problem(model: LatentModel) -> str | None:
    """Return why the criterion "complexity" is undefined for a model, or None."""
    if not model.bounded:
        return "criterion='complexity' requires images in [0, 1]. Received: rows of numbers"
    if model.event_shape[-1] not in (1, 3):
        return f"criterion='complexity' requires images of 1 or 3 channels. Received: images {model.event_shape}"
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
