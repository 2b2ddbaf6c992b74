"""The types of columns of a table: densities, samples and inputs of all columns of a type."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from keras import ops

from kvae.distributions.base import Part
from kvae.distributions.diagonal_normal import normal_log_density
from kvae.distributions.discretized_logistic_mixture import log_sum_exp
from kvae.distributions.location_scale import soft_clip
from kvae.distributions.log_sigmoid import log_sigmoid
from kvae.distributions.negative_binomial import LOG_DISPERSION, LOG_MEAN, negative_binomial_log_prob
from kvae.distributions.noise import Seed, standard_normal, uniform

Description = Mapping[str, Any]
#: bounds of the log-scale of standardised numbers: values that occur often don't get an unlimited density
LOG_SCALE = (math.log(1e-2), math.log(1e2))


class ColumnType(Part):
    """All columns of one type, in their order: values `(…, N)`, raw parameters `(…, param_size)`.

    Args:
        columns: descriptions of the columns.

    Attributes:
        param_size: number of raw parameters.
        widths: for each column, how many numbers describe it, both as an input of an encoder and in `expected`.
    """

    def __init__(self, columns: Sequence[Description], **kwargs: Any):
        super().__init__(**kwargs)
        self.location, self.scale = (
            np.array([float(column.get(key, default)) for column in columns], np.float32)
            for key, default in (("location", 0.0), ("scale", 1.0))
        )
        self.widths = [1] * len(columns)
        self.param_size = len(columns)

    def standardize(self, x: Any) -> Any:
        """Return observed values as inputs of an encoder, `(…, Σ widths)`."""
        raise NotImplementedError(f"{type(self).__name__} must define `standardize`.")

    def log_prob(self, params: Any, x: Any) -> Any:
        """Return the log-density of each column, `(…, N)`."""
        raise NotImplementedError(f"{type(self).__name__} must define `log_prob`.")

    def sample(self, params: Any, n: int, seed: Seed) -> Any:
        """Return samples, `(n, B, N)`."""
        raise NotImplementedError(f"{type(self).__name__} must define `sample`.")

    def expected(self, params: Any) -> Any:
        """Return the mean of each column, or the probabilities of its categories: `(…, Σ widths)`."""
        raise NotImplementedError(f"{type(self).__name__} must define `expected`.")

    def variance(self, params: Any) -> Any:
        """Return the variance of each column, `(…, N)`."""
        raise NotImplementedError(f"{type(self).__name__} must define `variance`.")

    def value(self, expected: Any) -> Any:
        """Return one value of each column for averages of `expected`, `(…, N)`."""
        return expected

    def uncertainty(self, params: Any, weight: Any) -> Any:
        """Return the uncertainty of `value` in the mixture with these weights `(K, B)`, `(B, N)`.

        It is the standard deviation √(Σ w (variance + (mean − Σ w mean)²)) of numbers and counts, and the probability
        of another value for categories and truth values.
        """
        w, means = weight[..., None], self.expected(params)
        mean = ops.sum(w * means, axis=0)
        return ops.sqrt(ops.sum(w * (self.variance(params) + ops.square(means - mean)), axis=0))


class Numbers(ColumnType):
    """Mixtures of K normal densities; the network returns means, raw log-scales and, if K > 1, logits of the weights.

    The means are relative to a grid from −2 to 2 (standardised), and the scales to its step, so that the components
    differ from the beginning.
    """

    def __init__(self, columns: Sequence[Description], components: int = 1, **kwargs: Any):
        super().__init__(columns, **kwargs)
        self.components = components
        self.grid = np.linspace(-2, 2, components, dtype="float32") if components > 1 else np.zeros(1, "float32")
        self.first_log_scale = -math.log(max(1, 0.25 * components))
        self.param_size = len(columns) * (2 if components == 1 else 3 * components)

    def split(self, params: Any) -> tuple[Any, Any, Any]:
        """Return log-weights, means and log-scales of the components, `(…, N, K)`."""
        blocks = ops.split(params, 2 if self.components == 1 else 3, axis=-1)
        mean, raw, *logits = (
            ops.reshape(block, (*ops.shape(block)[:-1], len(self.location), self.components)) for block in blocks
        )
        log_weight = logits[0] - log_sum_exp(logits[0]) if logits else np.zeros(1, "float32")
        return log_weight, self.grid + mean, soft_clip(self.first_log_scale + raw, *LOG_SCALE)

    def standardize(self, x: Any) -> Any:
        return (x - self.location) / self.scale

    def log_prob(self, params: Any, x: Any) -> Any:
        log_weight, mean, log_scale = self.split(params)
        log_p = log_weight + normal_log_density(self.standardize(x)[..., None], mean, log_scale)
        log_p = log_p if self.components == 1 else log_sum_exp(log_p)
        return log_p[..., 0] - np.log(self.scale)

    def sample(self, params: Any, n: int, seed: Seed) -> Any:
        log_weight, mean, log_scale = self.split(params)
        shape = (n, *ops.shape(mean)[:-1])
        if self.components > 1:
            chosen = _draw_index(ops.exp(log_weight), uniform(shape, seed), self.components)
            mean, log_scale = (ops.sum(chosen * entry, axis=-1) for entry in (mean, log_scale))
        else:
            mean, log_scale = mean[..., 0], log_scale[..., 0]
        return self._raw(mean + ops.exp(log_scale) * standard_normal(shape, seed))

    def expected(self, params: Any) -> Any:
        log_weight, mean, _ = self.split(params)
        return self._raw(ops.sum(ops.exp(log_weight) * mean, axis=-1))

    def variance(self, params: Any) -> Any:
        log_weight, mean, log_scale = self.split(params)
        weight = ops.exp(log_weight)
        between = ops.square(mean - ops.sum(weight * mean, axis=-1, keepdims=True))
        return np.square(self.scale) * ops.sum(weight * (ops.exp(2 * log_scale) + between), axis=-1)

    def _raw(self, y: Any) -> Any:
        return self.location + self.scale * y


class Counts(ColumnType):
    """Negative binomial distributions; the network returns log-means and log-dispersions."""

    def __init__(self, columns: Sequence[Description], **kwargs: Any):
        super().__init__(columns, **kwargs)
        self.param_size = 2 * len(columns)
        self.most = 10 + 2 * math.ceil(max(float(column.get("high", 0)) for column in columns))

    def split(self, params: Any) -> tuple[Any, Any]:
        """Return log μ and log r, `(…, N)`."""
        log_mean, log_dispersion = ops.split(params, 2, axis=-1)
        return soft_clip(self.location + log_mean, *LOG_MEAN), soft_clip(log_dispersion, *LOG_DISPERSION)

    def standardize(self, x: Any) -> Any:
        return (ops.log1p(ops.maximum(x, 0.0)) - self.location) / self.scale

    def log_prob(self, params: Any, x: Any) -> Any:
        return negative_binomial_log_prob(ops.maximum(ops.round(x), 0.0), *self.split(params))

    def sample(self, params: Any, n: int, seed: Seed) -> Any:
        log_mean, log_dispersion = (part[..., None, :] for part in self.split(params))  # (B, 1, N)
        counts = ops.arange(self.most, dtype="float32")[:, None]
        below = ops.cumsum(ops.exp(negative_binomial_log_prob(counts, log_mean, log_dispersion)), axis=-2)
        u = uniform((n, *ops.shape(params)[:-1], len(self.location)), seed)
        return ops.sum(ops.cast(u[..., None, :] > below, "float32"), axis=-2)

    def expected(self, params: Any) -> Any:
        return ops.exp(self.split(params)[0])

    def variance(self, params: Any) -> Any:
        mean, dispersion = (ops.exp(part) for part in self.split(params))
        return mean + ops.square(mean) / dispersion


class Booleans(ColumnType):
    """Bernoulli distributions; the network returns logits."""

    def standardize(self, x: Any) -> Any:
        return 2 * _level(x, 2) - 1

    def log_prob(self, params: Any, x: Any) -> Any:
        return _level(x, 2) * params + log_sigmoid(-params)

    def sample(self, params: Any, n: int, seed: Seed) -> Any:
        return ops.cast(uniform((n, *ops.shape(params)), seed) < ops.sigmoid(params), "float32")

    def expected(self, params: Any) -> Any:
        return ops.sigmoid(params)

    def variance(self, params: Any) -> Any:
        probability = self.expected(params)
        return probability * (1 - probability)

    def uncertainty(self, params: Any, weight: Any) -> Any:
        probability = ops.sum(weight[..., None] * self.expected(params), axis=0)
        return ops.minimum(probability, 1 - probability)


class Categories(ColumnType):
    """Categorical distributions; the network returns the logit of each category."""

    def __init__(self, columns: Sequence[Description], **kwargs: Any):
        super().__init__(columns, **kwargs)
        self.widths = [len(column["categories"]) for column in columns]
        self.param_size = sum(self.widths)
        self.ends = np.cumsum(self.widths).tolist()

    def split(self, values: Any) -> list[Any]:
        """Split parameters or probabilities by column, N × `(…, C)`."""
        return [values[..., end - width : end] for end, width in zip(self.ends, self.widths)]

    def one_hot(self, x: Any) -> list[Any]:
        levels = [np.arange(width, dtype="float32") for width in self.widths]
        return [
            ops.cast(ops.equal(_level(x[..., i : i + 1], len(level)), level), "float32")
            for i, level in enumerate(levels)
        ]

    def standardize(self, x: Any) -> Any:
        return ops.concatenate(self.one_hot(x), axis=-1)

    def log_prob(self, params: Any, x: Any) -> Any:
        terms = [
            ops.sum(chosen * (logits - log_sum_exp(logits)), axis=-1)
            for chosen, logits in zip(self.one_hot(x), self.split(params))
        ]
        return ops.stack(terms, axis=-1)

    def sample(self, params: Any, n: int, seed: Seed) -> Any:
        u = uniform((n, *ops.shape(params)[:-1], len(self.widths)), seed)
        columns = self.split(self.expected(params))
        drawn = [
            ops.sum(_draw_index(p, u[..., i], width) * np.arange(width, dtype="float32"), axis=-1)
            for i, (p, width) in enumerate(zip(columns, self.widths))
        ]
        return ops.stack(drawn, axis=-1)

    def expected(self, params: Any) -> Any:
        return ops.concatenate([ops.exp(logits - log_sum_exp(logits)) for logits in self.split(params)], axis=-1)

    def variance(self, params: Any) -> Any:
        found = []
        for p in self.split(self.expected(params)):
            index = np.arange(p.shape[-1], dtype="float32")
            mean = ops.sum(p * index, axis=-1, keepdims=True)
            found.append(ops.sum(p * ops.square(index - mean), axis=-1))
        return ops.stack(found, axis=-1)

    def value(self, expected: Any) -> Any:
        found = []
        for p in self.split(expected):
            # The first of the largest; LiteRT doesn't have the operators of `ops.argmax`.
            index = np.arange(p.shape[-1], dtype="float32")
            found.append(ops.min(ops.where(p >= ops.max(p, axis=-1, keepdims=True), index, float(len(index))), axis=-1))
        return ops.stack(found, axis=-1)

    def uncertainty(self, params: Any, weight: Any) -> Any:
        probabilities = self.split(ops.sum(weight[..., None] * self.expected(params), axis=0))
        return ops.stack([1 - ops.max(p, axis=-1) for p in probabilities], axis=-1)


def _level(x: Any, count: int) -> Any:
    """Return the nearest of the levels 0 … count − 1."""
    return ops.clip(ops.round(x), 0.0, count - 1.0)


def _draw_index(probability: Any, u: Any, count: int) -> Any:
    """Return one-hot vectors `(…, count)` for probabilities `(…, count)` and uniform numbers `(…)`."""
    below = ops.cumsum(probability, axis=-1)[..., : count - 1]
    index = ops.sum(ops.cast(u[..., None] > below, "int32"), axis=-1)
    return ops.one_hot(index, count, dtype="float32")
