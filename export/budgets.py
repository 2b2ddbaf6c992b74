"""Allowed differences between an exported file and Keras, and their reasons."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kvae.export.endpoints import ENTRIES, EXACT, NATS, PIXELS, PROBABILITY, SIZE, SPREAD
from kvae.export.errors import ExportError

if TYPE_CHECKING:
    from kvae.export.behaviour import Behaviour


@dataclass(frozen=True)
class Budget:
    """Largest allowed maximum and mean of the absolute error."""

    max: float
    mean: float

    def times(self, scale: float) -> "Budget":
        return Budget(self.max * scale, self.mean * scale)


# float32: the same arithmetic in another order. 1e-5 is about 30 times the error measured on small models, and far
# below the 1/255 of an 8-bit image. For deep and wide models, it is the possible rounding error (`rounding`). It is
# multiplied by the largest value of the output if that is above 1.
FLOAT32 = Budget(max=1e-5, mean=1e-5)
_UNIT = 2.0**-24  # the largest relative error of one operation in float32

# float16: 11 bits of each weight, and arithmetic in float32; about ten times the measured error.
_FLOAT16 = {
    **dict.fromkeys((SPREAD, SIZE, NATS), Budget(max=0.05, mean=0.005)),
    PIXELS: Budget(max=0.02, mean=0.002),
    PROBABILITY: Budget(max=0.02, mean=0.005),
    ENTRIES: Budget(max=0.5, mean=0.01),
}

# int8, images: two or three grey levels of an 8-bit image on average, far below the reconstruction error of a VAE. A
# single pixel at the edge of a stroke may differ far more, the sharper the decoder, the more. Measured on digits: 0.001
# to 0.003 on average; for one pixel 0.01 to 0.2, and 0.56 of `ladder` after 60 epochs. A file with badly chosen ranges
# has 0.02 and 0.4, so that the mean tells.
# int8, means: noise of a twentieth of the spread of the latents adds 0.25 % to their variance, which is too little to
# change the order of neighbours in latent space. A single mean may differ by half a spread. Measured: a fifth.
# int8, variances: relative to their root mean square, because errors of a log-scale are relative errors of a
# variance. Measured: up to a third.
# int8, nats: relative to the root mean square of −ELBO; the report has the lost nats.
# int8, probabilities: an image half-way between two classes may change sides, with half of the probability. On average,
# a twentieth may move to another class. Measured on digits: 0.04 and a hundredth. (Labels show whether the new class is
# wrong: `kvae.export.accuracy`.)
# int8, nats of single entries: relative to their standard deviation, because only differences between entries have a
# meaning. Measured on digits, series and rows: 0.001 to 0.01 on average, and up to 0.4 for one entry.
_INT8 = {
    ENTRIES: Budget(max=5.0, mean=0.1),
    **dict.fromkeys((SPREAD, SIZE, NATS, PROBABILITY), Budget(max=0.5, mean=0.05)),
    PIXELS: Budget(max=0.7, mean=0.01),
}
_BY_PRECISION = {"float16": _FLOAT16, **dict.fromkeys(("int8", "full_int8", "integer"), _INT8)}


def rounding(weights: Iterable[tuple[str, tuple[int, ...]]], event_shape: tuple[int, ...]) -> float:
    """Return the relative rounding error of float32 in the outputs of networks: u · Σ √n.

    The error of a sum of n terms grows as √n, and the errors of layers add up (Higham & Mary 2019, "A new approach to
    probabilistic rounding error analysis"). The kernel's shape gives the terms of a layer; a normalisation has at most
    as many terms as an image has values.

    Args:
        weights: paths and shapes of the weights.
        event_shape: shape of x, such as `(H, W, C)`.

    Example:

        >>> round(rounding([("dense/kernel", (64, 16)), ("dense/bias", (16,))], (8, 8, 1)) / 2**-24, 3)
        8.0
    """
    terms = [math.prod(shape[:-1]) for _, shape in weights if len(shape) > 1]
    terms += [math.prod(event_shape) for path, _ in weights if path.rsplit("/", 1)[-1] in ("gamma", "scale")]
    return _UNIT * sum(math.sqrt(n) for n in terms)


def budget(precision: str, unit: str, name: str, expected: dict[str, Any], rounding: float = 0.0) -> Budget:
    """Return the budget, in absolute errors, of an endpoint's output `name`.

    Args:
        precision: one of `kvae.export.litert.PRECISIONS`.
        unit: unit of the output, from the table of endpoints.
        name: name of the output.
        expected: all expected outputs of the endpoint on one batch, `(B, …)` each.
        rounding: relative rounding error of float32.
    """
    if unit == EXACT:
        return Budget(0.0, 0.0)
    if expected[name].dtype == np.uint8:  # in levels; a value between two levels may be rounded either way
        floats = budget(precision, unit, name, {**expected, name: expected[name] / 255.0}, rounding)
        return Budget(max(1.0, 255 * floats.max), max(0.02, 255 * floats.mean))
    if precision == "float32":
        least = max(FLOAT32.max, rounding)
        return Budget(least, least).times(max(1.0, float(np.max(np.abs(expected[name])))))
    allowed = _BY_PRECISION[precision][unit]
    if unit == PROBABILITY:  # a change from one class to another counts twice among C errors
        return Budget(allowed.max, allowed.mean * 2 / expected[name].shape[-1])
    return allowed.times(unit_scale(unit, name, expected))


def unit_scale(unit: str, name: str, expected: dict[str, Any]) -> float:
    """Return one unit as an absolute number.

    `PIXELS` is 1. `SIZE` is the root mean square of the output, and `ENTRIES` its standard deviation, at least 0.01.
    `NATS` is the root mean square of −ELBO, at least 1. `SPREAD` is the standard deviation of the latents: of
    z ~ q(z|x) over the images if the encoder has a variance (which dominates means that don't depend on the image),
    otherwise of the codes. All are pooled over the entries.

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
    if unit == ENTRIES:
        return max(0.01, float(np.std(expected[name], dtype=np.float64)))
    if unit == NATS:
        return max(1.0, _root_mean_square(expected["negative_elbo"]))
    return 1.0


# Lost nats of the ELBO on test images, whatever the errors of pixels. Half a nat counts as equal (`budget_nats`); five
# nats mean a worse model. Densities of series may be so narrow that any rounding costs more: a tenth of the spread of
# the scores doesn't change which windows are unusual.
SPREAD_LOST = 0.1  # of the standard deviation of −ELBO
_NATS = {"float32": 0.05, "float16": 0.5, "int8": 5.0, "full_int8": 5.0, "integer": 5.0}


def check_nats(file: str, precision: str, behaviour: "Behaviour") -> None:
    """Raise an ExportError if a file loses more nats than its precision may.

    Args:
        file: name of the file.
        precision: precision of the file.
        behaviour: its results on test images.

    Example:

        >>> from kvae.export.behaviour import Behaviour
        >>> check_nats("vae_int8.tflite", "int8", Behaviour(nats_lost=0.3, elbo=-92.0))
        >>> check_nats("vae_int8.tflite", "int8", Behaviour(nats_lost=6.1, elbo=-530.0, score_spread=250.0))
    """
    lost = behaviour.nats_lost
    if lost is None or behaviour.elbo is None:
        return
    allowed = _NATS[precision] + 1e-5 * abs(behaviour.elbo)  # float32 has seven digits
    if precision in _BY_PRECISION and behaviour.score_spread is not None:
        allowed = max(allowed, SPREAD_LOST * behaviour.score_spread)
    if not lost <= allowed:
        raise ExportError(
            f"Expected '{file}' to lose at most {allowed:.2g} nats of ELBO on the test images. Received: "
            f"a loss of {lost:.3g}; "
            + ("export precisions=('float32',) instead, " if precision != "float32" else "train the model again, ")
            + "or set accept_losses=True"
        )


def _root_mean_square(values: Any) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
