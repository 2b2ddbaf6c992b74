"""How far an exported file may be from Keras, and why."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from kvae.export.endpoints import EXACT, NATS, PIXELS, PROBABILITY, SIZE, SPREAD
from kvae.export.errors import ExportError


@dataclass(frozen=True)
class Budget:
    """Largest allowed maximum and mean of the absolute error."""

    max: float
    mean: float

    def times(self, scale: float) -> "Budget":
        return Budget(self.max * scale, self.mean * scale)


# float32: the same arithmetic in another order. 1e-5 is some 30 times what is measured on small models, and far below
# the 1/255 of an 8-bit image; of deep and wide ones, what rounding may leave (`rounding`). It is multiplied by the
# largest value of the output where that is above 1.
FLOAT32 = Budget(max=1e-5, mean=1e-5)
_UNIT = 2.0**-24  # the largest relative error of one operation in float32

# float16: 11 bits of each weight, and arithmetic in float32; some ten times what is measured.
_FLOAT16 = {
    PIXELS: Budget(max=0.02, mean=0.002),
    SPREAD: Budget(max=0.05, mean=0.005),
    SIZE: Budget(max=0.05, mean=0.005),
    NATS: Budget(max=0.05, mean=0.005),
    PROBABILITY: Budget(max=0.02, mean=0.005),
}

# int8, images: two or three grey levels of an 8-bit image on average, far below what a VAE's reconstruction
# loses, and no pixel off by more than a third of the range (edges of strokes are where it happens). On digits
# 0.001 to 0.003 and 0.01 to 0.2 are measured, most after long training; a file with badly chosen ranges has
# 0.02 and 0.4.
# int8, means: noise of a twentieth of the spread of the latents adds 0.25 % to their variance, too little for
# neighbours in latent space to change places; a single one may be off by half a spread. Measured: a fifth.
# int8, variances: relative to their root mean square, as errors of a log-scale are relative errors of a
# variance. Measured: up to a third.
# int8, nats: relative to the root mean square of −ELBO; their price is in the report.
# int8, probabilities: an image half-way between two classes may change sides, and take half of the probability
# along; on average a twentieth may move to another class. Measured on digits: 0.04 and a
# hundredth. (Whether it moves to the wrong class is what labels tell: `kvae.export.accuracy`.)
_INT8 = {
    PIXELS: Budget(max=0.3, mean=0.01),
    SPREAD: Budget(max=0.5, mean=0.05),
    SIZE: Budget(max=0.5, mean=0.05),
    NATS: Budget(max=0.5, mean=0.05),
    PROBABILITY: Budget(max=0.5, mean=0.05),
}
# full_int8: as int8 on average; with ranges fixed beforehand, the edge of a stroke may be off by more.
_FULL_INT8 = {**_INT8, PIXELS: Budget(max=0.5, mean=0.01)}
_BY_PRECISION = {"float16": _FLOAT16, "int8": _INT8, "full_int8": _FULL_INT8, "integer": _FULL_INT8}


def rounding(weights: Iterable[tuple[str, tuple[int, ...]]], image_shape: tuple[int, ...]) -> float:
    """Relative error that float32 may leave in the outputs of networks: u · Σ √n.

    The error of a sum of n terms grows as √n, those of layers add up (Higham & Mary 2019, "A new approach to
    probabilistic rounding error analysis"). A layer's kernel tells its terms; a normalisation's are at most an image's.

    Args:
        weights: paths and shapes.
        image_shape: `(H, W, C)`.

    Example:

        >>> round(rounding([("dense/kernel", (64, 16)), ("dense/bias", (16,))], (8, 8, 1)) / 2**-24, 3)
        8.0
    """
    terms = [math.prod(shape[:-1]) for _, shape in weights if len(shape) > 1]
    terms += [math.prod(image_shape) for path, _ in weights if path.rsplit("/", 1)[-1] in ("gamma", "scale")]
    return _UNIT * sum(math.sqrt(n) for n in terms)


def budget(precision: str, unit: str, name: str, expected: dict[str, Any], rounding: float = 0.0) -> Budget:
    """The budget, in absolute errors, of the output `name` of an endpoint that should put out `expected`.

    Args:
        precision: one of `kvae.export.litert.PRECISIONS`.
        unit: of the output, from the table of endpoints.
        name: of the output.
        expected: all outputs of the endpoint on one batch, `(B, …)` each.
        rounding: relative error that float32 leaves anyway.
    """
    if unit == EXACT:
        return Budget(0.0, 0.0)
    if expected[name].dtype == np.uint8:  # in levels; one that lies between two may be rounded either way
        floats = budget(precision, unit, name, {**expected, name: expected[name] / 255.0}, rounding)
        return Budget(max(1.0, 255 * floats.max), max(0.02, 255 * floats.mean))
    if precision == "float32":
        least = max(FLOAT32.max, rounding)
        return Budget(least, least).times(max(1.0, float(np.max(np.abs(expected[name])))))
    allowed = _BY_PRECISION[precision][unit]
    if unit == PROBABILITY:  # what moves from one of C classes to another counts twice among C errors
        return Budget(allowed.max, allowed.mean * 2 / expected[name].shape[-1])
    return allowed.times(unit_scale(unit, name, expected))


def unit_scale(unit: str, name: str, expected: dict[str, Any]) -> float:
    """One unit as an absolute number.

    `PIXELS` is 1; `SIZE` is the output's root mean square, `NATS` that of −ELBO, at least 1. `SPREAD` is the
    standard deviation of the latents: of z ~ q(z|x) over the images where the encoder gives a variance (a mean that
    says nothing about the image is drowned by it), of the codes where it doesn't. All are pooled over the entries.

    Example:

        >>> mean, variance = np.array([[1.0], [3.0]]), np.array([[3.0], [3.0]])
        >>> unit_scale(SPREAD, "mean", {"mean": mean})
        1.0
        >>> unit_scale(SPREAD, "mean", {"mean": mean, "variance": variance})
        2.0
    """
    if unit == SPREAD:
        between, within = np.mean(np.var(expected[name], axis=0)), np.mean(expected.get("variance", 0.0))
        return float(np.sqrt(between + within))
    if unit == SIZE:
        return _root_mean_square(expected[name])
    if unit == NATS:
        return max(1.0, _root_mean_square(expected["negative_elbo"]))
    return 1.0


# nats: what a file loses of the test images' ELBO, whatever its pixels are off by. Half a nat is what one calls equal
# (`budget_nats`); five are a worse model.
_NATS = {"float32": 0.05, "float16": 0.5, "int8": 5.0, "full_int8": 5.0, "integer": 5.0}


def check_nats(file: str, precision: str, does: dict[str, Any]) -> None:
    """ExportError if a file loses more nats than its precision may cost.

    Args:
        file: its name.
        precision: of it.
        does: what it does to test images (`kvae.export.behaviour`).

    Example:

        >>> check_nats("vae_int8.tflite", "int8", {"nats_lost": 0.3, "elbo": -92.0})
    """
    lost = does.get("nats_lost")
    if lost is None:
        return
    allowed = _NATS[precision] + 1e-5 * abs(does["elbo"])  # of which float32 has seven digits
    if not lost <= allowed:
        raise ExportError(
            f"Expected '{file}' to lose at most {allowed:.2g} nats of ELBO on the test images. Received: {lost:.3g} "
            f"lost; "
            + ("export precisions=('float32',) instead, " if precision != "float32" else "train again, ")
            + "or accept it with accept_losses=True"
        )


def _root_mean_square(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
