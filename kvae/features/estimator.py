"""The base class of the scikit-learn estimators: settings, training, and results that depend on a single row."""

import contextlib
import copy
import inspect
import random
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from sklearn.base import BaseEstimator
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import validate_data

from kvae import likelihoods, recipes
from kvae.arguments import at_least
from kvae.callbacks import BestEpoch, NothingLearnedError
from kvae.data.pipeline import without_autotuning
from kvae.distributions import Distribution
from kvae.evaluation.importance import Rows
from kvae.evaluation.scoring import SAMPLERS, score_images
from kvae.features.extraction import padded
from kvae.models import VAE, LatentModel
from kvae.networks import MLP, Decoder, Encoder, check_event_shape
from kvae.optimizers import FusedAdam

ROWS = 128  # rows encoded at once, always the same number, so that a row's result doesn't depend on the others
STEPS = 16  # training steps in a call of TensorFlow, at most
SCORED = 32  # the same for scores, which require K times as much memory


@dataclass(eq=False, repr=False)
class LatentEstimator(BaseEstimator):
    """The common base class of `VAETransformer` and `AnomalyDetector`; the fields are the arguments of both."""

    latent_dim: int = 8
    _: KW_ONLY
    model: Any = None
    event_shape: tuple[int, ...] | None = None
    image_shape: tuple[int, int, int] | None = None
    units: tuple[int, ...] = (128, 128)
    epochs: int | None = 30
    batch_size: int = 64
    learning_rate: float | None = 1e-3
    patience: int | None = None
    validation_fraction: float = 0.1
    num_samples: int = 16
    proposal: str = "posterior"
    random_state: Any = None
    verbose: int = 0

    # Fitted attributes, annotated because __init__ doesn't set them.
    model_: Any = field(init=False)
    history_: dict[str, list[float]] = field(init=False)
    n_iter_: int = field(init=False)
    seed_: int = field(init=False)

    def fit(self, X: Any, y: Any = None) -> Any:
        """Train the model.

        Args:
            X: rows `(N, features)`; images `(N, H, W)` or `(N, H, W, C)`; or, with `event_shape=(T, F)`, series
                `(N, T, F)`.
            y: ignored.

        Returns:
            The estimator.
        """
        X = self._validate(X, reset=True)
        self.row_shape_ = X.shape[1:]
        self._check_settings()
        self._check_values(X)
        self.seed_ = int(check_random_state(self.random_state).randint(2**31 - 1))
        X = X[self._training_rows(len(X), y)]
        self.model_ = self._make(X)
        self._train(self._images(X))
        self._samplers: dict[tuple[str, int], Any] = {}
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {**state, "_samplers": {}} if "_samplers" in state else state  # samplers can't be pickled

    def _validate(self, X: Any, reset: bool = False) -> np.ndarray:
        X = validate_data(self, X, dtype=np.float32, allow_nd=True, reset=reset)
        if not reset and X.shape[1:] != self.row_shape_:
            raise ValueError(f"Expected rows of shape {self.row_shape_}, as in `fit`. Received: {X.shape[1:]}")
        if X.ndim > 4:
            raise ValueError(f"Expected rows of numbers, or images (N, H, W) or (N, H, W, C). Received: {X.shape}")
        return X

    def _images(self, X: np.ndarray) -> np.ndarray:
        """Return rows in the shape of the model's images, `(N, H, W, C)`."""
        return X.reshape(-1, *self.model_.event_shape)

    def _given_shape(self) -> tuple[int, ...] | None:
        """Return the shape of an event that was given, or None."""
        if self.event_shape is None and self.image_shape is None:
            return None
        return check_event_shape(self.event_shape, self.image_shape)

    def _shape(self) -> tuple[int, ...]:
        """Return the shape of an event, such as `(H, W, C)`."""
        size = int(np.prod(self.row_shape_))
        given = self._given_shape()
        if given is not None:
            if int(np.prod(given)) != size:
                raise ValueError(f"Expected rows of event_shape={given}. Received: rows of {size} numbers")
            return given
        if len(self.row_shape_) == 1:
            return (size,)
        return (*self.row_shape_, 1)[:3]

    def _check_settings(self) -> None:
        for name, least in (("latent_dim", 1), ("batch_size", 1), ("num_samples", 1)):
            at_least(name, getattr(self, name), least)
        at_least("epochs", self._training(1)[0], 0)
        if self.proposal not in ("posterior", "refined"):
            raise ValueError(
                f"Argument `proposal` must be 'posterior' or 'refined'. Received: proposal={self.proposal!r}"
            )
        if not 0 < self.validation_fraction < 1:
            raise ValueError(
                "Argument `validation_fraction` must be between 0 and 1. "
                f"Received: validation_fraction={self.validation_fraction}"
            )

    def _training_rows(self, rows: int, y: Any) -> Any:
        """Return the index of the rows of X that the model may see."""
        return slice(None)

    def _check_values(self, X: np.ndarray) -> None:
        """Raise a ValueError for arrays that are series rather than grey images."""
        if self.model is None and self._given_shape() is None and X.ndim == 3 and (X.min() < 0 or X.max() > 1):
            steps, features = X.shape[1:]
            raise ValueError(
                f"Expected grey images (N, H, W) with values in [0, 1]; for series of {steps} steps and {features} "
                f"features, pass event_shape=({steps}, {features}). Received: values from {X.min():.3g} to "
                f"{X.max():.3g}"
            )

    def _make(self, X: np.ndarray) -> LatentModel:
        """Make the model before training; X are the rows that it may see."""
        shape, rows = self._shape(), len(X)
        with seeded_weights(self.seed_):
            if isinstance(self.model, LatentModel):
                made: Any = copy.deepcopy(self.model)
            elif isinstance(self.model, str):
                if self.model not in recipes.__all__:
                    raise ValueError(
                        f"Argument `model` must be a model, a function, or one of the recipes "
                        f"{', '.join(recipes.__all__)}. Received: model={self.model!r}"
                    )
                recipe, rows = getattr(recipes, self.model), rows - self._num_validation(rows)
                known = {"num_steps": self._training(rows)[0] * -(-rows // self.batch_size), "num_images": rows}
                wanted = inspect.signature(recipe).parameters
                made = recipe(shape, self.latent_dim, **{name: known[name] for name in known.keys() & wanted.keys()})
            elif self.model is not None:
                made = self.model(shape, self.latent_dim)
            elif len(shape) == 1:
                made = self._model_of_rows(shape, X)
            else:
                is_series = len(shape) == 2
                likelihood_of = self._likelihood_of_numbers if is_series else self._likelihood
                made = VAE(
                    latent_dim=self.latent_dim,
                    event_shape=shape,
                    likelihood=likelihood_of(X.reshape(-1, *shape)),
                    bounded=not is_series,
                    seed=self.seed_,
                )
        if not isinstance(made, LatentModel) or made.condition_dim is not None:
            raise ValueError(f"Expected a `kvae.VAE` or `kvae.Autoencoder` without conditions. Received: {made!r}")
        if made.event_shape != shape and int(np.prod(made.event_shape)) != int(np.prod(shape)):
            raise ValueError(f"Expected rows of the model's event_shape={made.event_shape}. Received: {shape}")
        return made

    def _model_of_rows(self, shape: tuple[int, ...], X: np.ndarray) -> LatentModel:
        """Return the default model of rows."""
        return VAE(
            Encoder(self.latent_dim, MLP(tuple(self.units))),
            Decoder(shape, MLP(tuple(self.units)[::-1])),
            likelihood=self._likelihood_of_numbers(X),
            bounded=False,
            seed=self.seed_,
        )

    def _training_batches(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        """Return the batches of training rows as the model gets them."""
        return batches

    def _likelihood(self, X: np.ndarray) -> Distribution:
        """Return the likelihood of the default model of images X."""
        return likelihoods.Bernoulli()

    def _training(self, rows: int) -> tuple[Any, Any]:
        """Return the number of epochs and the learning rate for this number of training rows."""
        return self.epochs, self.learning_rate

    def _likelihood_of_numbers(self, X: np.ndarray) -> Distribution:
        """Return the likelihood of the default model of rows of numbers `(N, columns)`, or of series `(N, T, F)`."""
        return likelihoods.Normal(learned=True)

    def _num_validation(self, rows: int) -> int:
        """Return how many rows are set aside for early stopping."""
        return 0 if self._patience() is None else min(rows - 1, max(1, round(self.validation_fraction * rows)))

    def _patience(self) -> int | None:
        """Return the number of epochs without a better bound after which training stops, or None."""
        return self.patience

    def _train(self, images: np.ndarray) -> None:
        model, patience = self.model_, self._patience()
        count = self._num_validation(len(images))
        order = np.random.default_rng(self.seed_).permutation(len(images))
        validation, train = order[:count], order[count:]
        epochs, learning_rate = self._training(len(train))
        if epochs == 0:
            model.check_images(images[:ROWS])
            self.history_, self.n_iter_ = {}, 0
            return
        callbacks = [_BestWeights(patience)] if count else []
        rows = tf.data.Dataset.from_tensor_slices(tf.constant(train))
        batches = rows.shuffle(len(train), seed=self.seed_).batch(self.batch_size)
        data = tf.constant(images)
        steps = min(STEPS, -(-len(train) // self.batch_size))  # each call of a small step takes as long as the step
        model.compile(FusedAdam(learning_rate, global_clipnorm=100.0), steps_per_execution=steps)
        diverged = None
        try:
            model.fit(
                without_autotuning(self._training_batches(batches.map(lambda chosen: tf.gather(data, chosen)))),
                validation_data=tf.data.Dataset.from_tensor_slices(images[validation]).batch(ROWS) if count else None,
                epochs=epochs,
                callbacks=callbacks,
                verbose=self.verbose,
            )
        except NothingLearnedError as error:
            diverged = error
        self.history_ = {name: [float(value) for value in values] for name, values in model.history.history.items()}
        self.n_iter_ = len(model.history.epoch)
        if diverged or not np.isfinite(self.history_["loss"][-1]):
            raise ValueError(
                "Training gave a loss that is not finite: scale X (such as with StandardScaler), or lower "
                f"`learning_rate`. Received: X with values from {images.min():.3g} to {images.max():.3g}"
            ) from diverged

    def _rows(self, function: Callable[[np.ndarray], Any], inputs: np.ndarray) -> np.ndarray:
        """Apply a function to `ROWS` inputs at a time."""
        starts = range(0, len(inputs), ROWS)
        pieces = [np.asarray(function(padded(inputs[start : start + ROWS], ROWS))) for start in starts]
        return np.concatenate(pieces)[: len(inputs)]

    def _scores(self, images: np.ndarray) -> Rows:
        """Return distortion, rate and importance-weighted likelihood of each image; all images share the noise."""
        data = tf.data.Dataset.from_tensor_slices(padded(images, SCORED)).batch(SCORED)
        rows: Rows = {}
        for proposal in dict.fromkeys(("posterior", self.proposal)):  # "refined" has no distortion and rate
            key = proposal, self.num_samples
            if key not in self._samplers:
                make: Any = SAMPLERS[proposal]
                self._samplers[key] = make(self.model_, self.num_samples, self.seed_, SCORED, same_noise=True)
            sampler = self._samplers[key]
            rows |= score_images(self.model_, data, self.num_samples, self.seed_, sampler=sampler, proposal=proposal)
        return {name: values[: len(images)] for name, values in rows.items()}

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags


class _BestWeights(BestEpoch):
    """A callback that keeps the best weights in memory and restores them after training."""

    def __init__(self, patience: int | None):
        super().__init__("", patience)
        self.weights: list[np.ndarray] | None = None

    def keep(self) -> None:
        self.weights = self.model.get_weights()

    def on_train_end(self, logs: Any = None) -> None:
        if self.weights is not None:
            self.model.set_weights(self.weights)


@contextlib.contextmanager
def seeded_weights(seed: int) -> Iterator[None]:
    """Give new layers weights that depend on the seed alone, without changing global state afterwards.

    Keras takes the seeds of initializers from Python's `random`.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
