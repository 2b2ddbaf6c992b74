"""A likelihood of rows of a table whose columns have different types."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from kvae.arguments import integer, shown
from kvae.distributions.base import Distribution
from kvae.distributions.column_types import Booleans, Categories, ColumnType, Counts, Numbers
from kvae.distributions.noise import Noise, Seed

#: types of columns, and the class of each; dates are numbers
TYPES: dict[str, type[ColumnType]] = {
    "number": Numbers, "date": Numbers, "count": Counts, "boolean": Booleans, "category": Categories,
}  # fmt: skip


@keras.saving.register_keras_serializable("kvae")
class Columns(Distribution):
    """Likelihood of a row with columns of mixed types, in the columns' own units: p(x|z) = Π_j p(x_j|z).

    | type | value | distribution, and what the network returns for it |
    |---|---|---|
    | "number", "date" | a number | mixture of `components` normal densities; K means, K raw log-scales (standardised, \
bounded smoothly to scales from 0.01 to 100) and, if K > 1, K logits |
    | "count" | an integer >= 0 | negative binomial; log-mean, relative to `location`, and log-dispersion |
    | "boolean" | 0 or 1 | Bernoulli; a logit |
    | "category" | the index of the category | categorical; a logit for each category |

    **Missing values** are NaN. Their columns are left out of the sum, so that log p(x|z) is the likelihood of the
    observed columns alone: maximising it is correct if values are missing at random (Rubin 1976; Mattei & Frellsen
    2019, https://arxiv.org/abs/1812.02633, eq. 4). The encoder gets 0 for them.

    `standardize` returns the encoder's input: standardised numbers and standardised log(1 + count), −1 and 1 for truth
    values, one-hot vectors for categories, and a further input for each column with missing values, 1 if it is missing.

    `log_prob` adds densities (numbers, per unit) and probabilities, in nats. `mean` is the mean of numbers and counts,
    the probability of a truth value, and for categories the index of the most probable one. `variance` of a category is
    that of its index. A sampled count is at most 10 + 2 · `high`.

    Args:
        columns: a dictionary for each column, with "name" and "type", and if they differ from the defaults: "location"
            (0) and "scale" (1), those of log(1 + count) for counts; "high", the largest count; "categories", the names
            of the categories; "missing" (False), whether the training data have missing values. Other entries are kept,
            such as those of `kvae.data.tables.TableSchema`, which makes this list from data.
        components: number of components of the mixtures, K >= 1.
        mask_all: whether every column has an input for missing values.

    Raises:
        ValueError: for a missing or unknown entry of a column, or a scale that isn't positive.

    Example:

        >>> p = Columns([{"name": "age", "type": "number", "location": 40.0, "scale": 10.0},
        ...              {"name": "city", "type": "category", "categories": ["Oslo", "Paris", "Rome"]}])
        >>> p.param_size((2,)), p.standardized_shape((2,))
        (5, (4,))
        >>> p.build((None, 5))
        >>> x = np.array([[50.0, 1.0], [np.nan, 1.0]], "float32")
        >>> p.standardize(x).numpy().tolist()
        [[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
        >>> p.log_prob(np.zeros((2, 5), "float32"), x).numpy().round(3)  # the second is log ⅓
        array([-4.82 , -1.099], dtype=float32)
    """

    roles = ("likelihood",)
    accepts_missing = True
    unbounded = "means and logits"

    def __init__(
        self, columns: Sequence[Mapping[str, Any]], components: int = 1, mask_all: bool = False, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.columns = [_checked(column) for column in columns]
        if not self.columns:
            raise ValueError("Argument `columns` must have one or more columns. Received: none")
        self.components, self.mask_all = integer("components", components, least=1), bool(mask_all)
        self.parts: list[ColumnType] = []
        self._at: list[np.ndarray] = []  # of each part, the numbers of its columns
        types = [TYPES[column["type"]] for column in self.columns]
        for kind in dict.fromkeys(TYPES.values()):
            at = np.array([i for i, found in enumerate(types) if found is kind], np.int32)
            if len(at):
                options = {"components": self.components} if kind is Numbers else {}
                self.parts.append(kind([self.columns[i] for i in at], **options))
                self._at.append(at)
        self._order = np.argsort(np.concatenate(self._at)).astype(np.int32)
        self._masked = np.array(
            [i for i, column in enumerate(self.columns) if self.mask_all or column.get("missing")], np.int32
        )
        self._filling = np.zeros(len(self.columns), np.float32)
        self._log_units = np.zeros(len(self.columns), np.float32)
        for part, at in zip(self.parts, self._at):
            if isinstance(part, Numbers):
                self._filling[at], self._log_units[at] = part.location, np.log(part.scale)

    @property
    def unit(self) -> np.ndarray:
        """Scale of numbers, a typical count; twice the number of categories, because `mean` is the index of one."""
        units = []
        for column in self.columns:
            kind, location, scale = column["type"], column.get("location", 0.0), column.get("scale", 1.0)
            of_count = math.expm1(location + scale) if kind == "count" else 0.0
            units.append(
                {"count": max(1.0, of_count), "boolean": 1.0, "category": 2.0 * len(column.get("categories", ()))}.get(
                    kind, scale
                )
            )
        return np.array(units, "float32")

    def plausible(self, uniform: Any) -> Any:
        columns = []
        for i, column in enumerate(self.columns):
            u, location, scale = uniform[..., i], column.get("location", 0.0), column.get("scale", 1.0)
            levels = {"boolean": 2, "category": len(column.get("categories", ())), "count": column.get("high", 0) + 1}
            count = levels.get(column["type"])
            columns.append(location + scale * (4 * u - 2) if count is None else np.floor(u * count))
        return np.stack(columns, axis=-1)

    def describe(self) -> dict[str, Any]:
        """Return the schema of the table as JSON (`kvae.data.tables.TableSchema.from_json` reads it)."""
        return {"kind": "table", "columns": [dict(column) for column in self.columns]}

    def param_size(self, event_shape: tuple[int, ...]) -> int:
        if tuple(event_shape) != (len(self.columns),):
            raise ValueError(
                f"Expected rows of {len(self.columns)} columns, event_shape=({len(self.columns)},), as the likelihood "
                f"has. Received: event_shape={tuple(event_shape)}"
            )
        return sum(part.param_size for part in self.parts)

    def standardize(self, x: Any) -> Any:
        x, observed = self._observed(x)
        inputs = [
            part.standardize(ops.take(x, at, axis=-1)) * ops.take(observed, np.repeat(at, part.widths), axis=-1)
            for part, at in zip(self.parts, self._at)
        ]
        if len(self._masked):
            inputs.append(1 - ops.take(observed, self._masked, axis=-1))
        return ops.concatenate(inputs, axis=-1)

    def standardized_shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        return (sum(sum(part.widths) for part in self.parts) + len(self._masked),)

    def entry_log_prob(self, params: Any, value: Any) -> Any:
        """Return the log-density of each column, `(…, B, columns)` in nats (per unit of a number); 0 if missing."""
        x, observed = self._observed(value)
        terms = [
            part.log_prob(p, ops.take(x, at, axis=-1)) for part, at, p in zip(self.parts, self._at, self._split(params))
        ]
        return self._in_order(terms) * observed

    def entry_distortion(self, params: Any, value: Any) -> Any:
        _, observed = self._observed(value)
        log_units = self._log_units * observed
        shared = ops.sum(log_units, axis=-1, keepdims=True) / ops.maximum(
            ops.sum(observed, axis=-1, keepdims=True), 1.0
        )
        return -self.entry_log_prob(params, value) - log_units + shared * observed

    def sample(self, params: Any, n: int, seed: Seed) -> Any:
        noise = Noise(int(seed)) if isinstance(seed, int | np.integer) else seed  # draws that differ for each type
        return self._in_order([part.sample(p, n, noise) for part, p in zip(self.parts, self._split(params))])

    def mean(self, params: Any) -> Any:
        return self._in_order([part.value(part.expected(p)) for part, p in zip(self.parts, self._split(params))])

    def variance(self, params: Any) -> Any:
        return self._in_order([part.variance(p) for part, p in zip(self.parts, self._split(params))])

    def averaged(self, params: Any, weight: Any) -> tuple[Any, Any]:
        """Return one value of each column in the mixture Σ_k w_k p(x|z_k), and its uncertainty, `(B, columns)` each.

        The value is defined as in `mean`, of the whole mixture: the category with the largest average probability. Its
        uncertainty is the standard deviation of numbers and counts, and for categories and truth values the probability
        that the nearest truth value or the category is wrong.

        Args:
            params: raw parameters of each component, `(K, B, P)`.
            weight: w, `(K, B)`, which add up to 1.
        """
        values, uncertainties = [], []
        for part, p in zip(self.parts, self._split(params)):
            values.append(part.value(ops.sum(weight[..., None] * part.expected(p), axis=0)))
            uncertainties.append(part.uncertainty(p, weight))
        return self._in_order(values), self._in_order(uncertainties)

    def _split(self, params: Any) -> list[Any]:
        """Split the raw parameters by type."""
        params = ops.cast(params, "float32")
        ends = np.cumsum([part.param_size for part in self.parts]).tolist()
        return [params[..., end - part.param_size : end] for part, end in zip(self.parts, ends)]

    def _in_order(self, parts: list[Any]) -> Any:
        """Return values by type in the order of the columns."""
        return ops.take(ops.concatenate(parts, axis=-1), self._order, axis=-1)

    def _observed(self, x: Any) -> tuple[Any, Any]:
        """Return x without NaN, and 1 for each observed value."""
        x = ops.cast(x, "float32")
        observed = ops.equal(x, x)  # False for NaN; LiteRT has no `isnan`
        return ops.where(observed, x, self._filling), ops.cast(observed, "float32")


def _checked(column: Mapping[str, Any]) -> dict[str, Any]:
    """Return a description as a dictionary; raise a ValueError if it is invalid."""
    found = dict(column)
    name = found.get("name")
    if not isinstance(name, str) or found.get("type") not in TYPES:
        raise ValueError(
            f"Expected columns with a 'name' and one of the types {', '.join(TYPES)}. Received: {shown(found)}"
        )
    if found["type"] == "category" and not (isinstance(found.get("categories"), list) and found["categories"]):
        raise ValueError(f"Expected 'categories' of the column {name!r}, a list of names. Received: {shown(found)}")
    location, scale = found.get("location", 0.0), found.get("scale", 1.0)
    if not (math.isfinite(location) and math.isfinite(scale) and scale > 0):
        raise ValueError(
            f"Expected a finite location and a scale > 0 of the column {name!r}. Received: {location} and {scale}"
        )
    return found
