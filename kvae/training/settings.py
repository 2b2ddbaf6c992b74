"""The settings of a training run. (Importing this module imports neither TensorFlow nor Keras.)"""

import dataclasses
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kvae.run import RunError, with_data_seed

if TYPE_CHECKING:
    from kvae.data import Data

STEPS, MIN_EPOCHS, MAX_EPOCHS = 5_000, 10, 100
BATCH_SIZE, PIXELS = 128, 64 * 64  # larger images make smaller batches, with about as many pixels
LEAST_BATCH = 16  # of few examples

# Names of parts; `kvae.training.parts` maps them to objects.
Likelihood = Literal[
    "auto", "bernoulli", "continuous-bernoulli", "normal", "normal-learned", "normal-optimal", "normal-pixel",
    "normal-low-rank", "laplace", "logistic", "logistic-mixture",
]  # fmt: skip
Posterior = Literal["normal", "full-covariance", "flow"]
Prior = Literal["normal", "mixture", "vamp", "flow"]
Network = Literal["conv", "mlp", "residual"]
FitPrior = Literal["none", "mixture", "flow"]
Binarize = Literal["none", "threshold", "stochastic"]
Precision = Literal["float32", "bfloat16", "float16"]
Kind = Literal["auto", "images", "series", "table"]

#: settings that a recipe sets
OF_RECIPES = frozenset({"beta", "warmup", "likelihood", "posterior", "prior", "network"})


@dataclasses.dataclass(frozen=True)
class Settings:
    """The settings of one training run. `for_data` replaces None and "auto" by values that fit the data.

    Attributes:
        source: "digits", "shapes", "faces", "machine", a name of TensorFlow Datasets, or a path; see `kvae.data.load`.
        recipe: name of a published variant (`kvae.recipes`).
        conditional: whether the model is conditioned on the labels.
        start: run folder whose weights the model starts with.
        epochs: passes over the data (default: about 5,000 steps, 10 to 100 epochs).
        latent_dim: number of latents (default 16, or the recipe's).
        seed: seed of the initialisation, the order and the noise.
        data_seed: seed for splitting, and for binarising the evaluation images.
        data_dir: folder of prepared TensorFlow Datasets.
        batch_size: images in a step (default: 128 or the recipe's; fewer if images are larger than 64×64, or
            of few examples).
        learning_rate: peak learning rate (warm-up, then cosine decay).
        beta: weight of the rate.
        warmup: steps over which β grows from 0.
        num_samples: K of a recipe with several posterior samples.
        likelihood, posterior, prior, network: names of parts, from the tables of this module.
        fit_prior: method that fits a prior to the latents after training.
        binarize: "none", "threshold", or "stochastic" (redrawn each epoch).
        size, grayscale, value_range, background, key: how images are read; see `kvae.data.load`.
        kind, time, window, stride, columns, series: how series and tables are read; see `kvae.data.load`.
        schema: names and scales of the features of series and tables, from the training data.
        patience: epochs without a better validation value after which training stops.
        precision: precision of the networks; densities stay float32.
        ema: momentum of averaged weights; 0 is none.
        xla: whether the training step is compiled with XLA.
        deterministic: whether only deterministic operations are used.

    Example:

        >>> settings = Settings("digits", latent_dim=2)
        >>> settings.for_data(settings.load()).epochs
        100
    """

    source: str
    recipe: str | None = None
    conditional: bool = False
    start: str | None = None
    epochs: int | None = None
    latent_dim: int | None = None
    seed: int = 0
    data_seed: int = 0
    data_dir: str | None = None
    batch_size: int | None = None
    learning_rate: float = 3e-3
    beta: float = 1.0
    warmup: int = 0
    num_samples: int | None = None
    likelihood: Likelihood = "auto"
    posterior: Posterior = "normal"
    prior: Prior = "normal"
    network: Network = "conv"
    fit_prior: FitPrior = "none"
    binarize: Binarize = "none"
    size: int | tuple[int, int] | None = None
    grayscale: bool | None = None
    value_range: tuple[float, float] | None = None
    background: str | None = None
    key: str | None = None
    kind: Kind = "auto"
    time: str | None = None
    window: int | None = None
    stride: int | None = None
    columns: tuple[str, ...] | None = None
    series: str | None = None
    schema: dict[str, Any] | None = None
    patience: int | None = None
    precision: Precision = "float32"
    ema: float = 0.0
    xla: bool = False
    deterministic: bool = False

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Settings":
        """Return the settings in a run's configuration."""
        config = with_data_seed(config)
        decided = OF_RECIPES if config["recipe"] is not None else frozenset()
        names = {field.name for field in dataclasses.fields(cls)} - decided
        return cls(**{name: config[name] for name in names & set(config)})

    def load(self) -> "Data":
        """Load the data."""
        from kvae import data

        images = data.load(
            self.source, batch_size=self.batch_size or BATCH_SIZE, seed=self.data_seed, binarize=self.binarize,
            size=self.size, grayscale=self.grayscale, value_range=self.value_range,
            background=self.background or "white", key=self.key, data_dir=self.data_dir, kind=self.kind, time=self.time,
            window=self.window, stride=self.stride, columns=self.columns, series=self.series, schema=self.schema,
        )  # fmt: skip
        if self.batch_size is None:
            batch_size = default_batch_size(images.event_shape, images.num_train, self.recipe)
            images = dataclasses.replace(images, batch_size=batch_size)
        return images

    def with_recipe(self, given: set[str]) -> "Settings":
        """Return these settings with those of the recipe, except where a setting was `given` explicitly.

        Raises:
            RunError: for an unknown recipe, or a given setting that recipes set.
        """
        from kvae import recipes

        if self.recipe not in recipes.__all__:
            raise RunError(f"Expected --recipe to be one of {', '.join(recipes.__all__)}. Received: {self.recipe}")
        if fixed := given & OF_RECIPES:
            raise RunError(f"--{min(fixed)} is set by the recipe: leave it out, or leave out --recipe")
        settings = getattr(recipes, self.recipe).settings
        given = given | {"batch_size"}  # which follows from the size of the images, too
        return dataclasses.replace(self, **{name: value for name, value in settings.items() if name not in given})

    def for_data(self, images: "Data") -> "Settings":
        """Return these settings with the values that depend on the data filled in."""
        schema = images.schema
        default: Likelihood = "normal-learned" if images.event_shape[-1] > 1 else "bernoulli"  # of images
        data_dir = self.data_dir or os.environ.get("TFDS_DATA_DIR")
        return dataclasses.replace(
            self,
            source=str(images.path or self.source),
            value_range=images.value_range,
            data_dir=str(Path(data_dir).resolve()) if data_dir else None,
            epochs=self.epochs or default_epochs(images),
            batch_size=images.batch_size,
            likelihood=default if self.likelihood == "auto" and schema is None else self.likelihood,
            schema=None if schema is None else schema.to_json(),
        )


def default_batch_size(event_shape: tuple[int, ...], count: int, recipe: str | None = None) -> int:
    """Return the number of examples in a step: the recipe's or 128, and fewer if images are larger than 64×64.

    Without a recipe, an epoch of `count` training examples has about ten steps or more, of at least 16 examples.

    Example:

        >>> default_batch_size((64, 64, 3), 50_000), default_batch_size((256, 256, 3), 50_000)
        (128, 8)
        >>> default_batch_size((64, 8), 400)
        40
    """
    size = min(BATCH_SIZE, max(LEAST_BATCH, count // 80 * 8))  # multiples of 8 are divided among workers
    if recipe is not None:
        from kvae import recipes

        size = getattr(recipes, recipe).settings.get("batch_size", size)
    return max(1, min(size, size * PIXELS // math.prod(event_shape[:-1])))


def default_epochs(images: "Data") -> int:
    """Return the number of epochs for about 5,000 steps, between 10 and 100."""
    return max(MIN_EPOCHS, min(MAX_EPOCHS, round(STEPS / images.batches_per_epoch)))
