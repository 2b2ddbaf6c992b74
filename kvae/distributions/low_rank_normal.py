"""N(mean, D + V Vᵀ) over the whole image, with a few factors V from the network."""

import math
from typing import Any

import keras
from keras import ops

from kvae.arguments import at_least
from kvae.distributions.diagonal_normal import LOG_2PI
from kvae.distributions.location_scale import BoundedScale, soft_clip
from kvae.distributions.noise import Seed, standard_normal

MAX_FACTOR = 100.0  # bound of an entry of V, in units of its own σ


def cholesky_of_identity_plus(gram: Any) -> list[list[Any]]:
    """Return the rows of L with L Lᵀ = I + `gram` `(…, R, R)`, for small R, entry by entry: LiteRT has no Cholesky.

    The pivots are at least 1, because `gram` has no negative eigenvalue. The bound enforces that in spite of rounding.
    """
    rows: list[list[Any]] = []
    for i in range(gram.shape[-1]):
        row: list[Any] = []
        for j in range(i):
            row.append((gram[..., i, j] - sum(row[k] * rows[j][k] for k in range(j))) / rows[j][j])
        row.append(ops.sqrt(ops.maximum(1 + gram[..., i, i] - sum(ops.square(entry) for entry in row), 1.0)))
        rows.append(row)
    return rows


def cholesky_solve(rows: list[list[Any]], b: Any) -> Any:
    """Return x with L Lᵀ x = b `(…, R)`, by forward and backward substitution."""
    size = len(rows)
    y: list[Any] = []
    for i in range(size):
        y.append((b[..., i] - sum(rows[i][j] * y[j] for j in range(i))) / rows[i][i])
    for i in reversed(range(size)):
        y[i] = (y[i] - sum(rows[j][i] * y[j] for j in range(i + 1, size))) / rows[i][i]
    return ops.stack(y, axis=-1)


@keras.saving.register_keras_serializable("kvae")
class LowRankNormal(BoundedScale):
    """Normal likelihood with correlated pixels: x | z ~ N(μ, D + V Vᵀ), D = diag(σ²), V with `rank` columns.

    Each factor, a column of V, is an image by which all pixels vary together, such as a thicker stroke. A likelihood
    of pixels that are independent given z has to represent such variations in the latents, or as blur. (Structured
    covariances: Dorta et al. 2018, https://arxiv.org/abs/1802.07079; this form: Monteiro et al. 2020,
    https://arxiv.org/abs/2006.06015, eq. 5.) The network returns `[mean, raw log σ, raw A]`, 2 + `rank` numbers for
    each entry of the event. A = D^−½ V is V in units of σ, smoothly bounded to ±100. With e = D^−½ (x − μ),
    M = I + AᵀA, and N entries, the log-density in nats is, by the matrix determinant lemma and the Woodbury identity,

        −½ (N log 2π + log |D| + log |M| + |e − A u|² + |u|²),  u = M⁻¹ Aᵀ e.

    Args:
        rank: number of factors, >= 1.
        min_scale, max_scale: smooth bounds of σ, 0 < min_scale < 1 < max_scale.

    Raises:
        ValueError: for a smaller rank or other bounds.

    Example:

        >>> p = LowRankNormal(rank=1)
        >>> p.build((None, 6))
        >>> params = ops.convert_to_tensor([[0.0, 0, 0, 0, 1, 1]])  # two means, raw log-scales, entries of A
        >>> p.covariance(params).numpy().round(3)
        array([[[2., 1.],
                [1., 2.]]], dtype=float32)
    """

    roles = ("likelihood",)

    def __init__(self, rank: int = 4, min_scale: float = 1e-3, max_scale: float = 1e3, **kwargs: Any):
        super().__init__(min_scale, max_scale, **kwargs)
        self.rank = at_least("rank", rank, 1)

    def param_size(self, event_shape: tuple[int, ...]) -> int:
        return (2 + self.rank) * event_shape[-1]

    def split(self, params: Any) -> tuple[Any, Any, Any]:
        """Return the mean and log σ with the shape of the event, and A `(…, *event, R)`."""
        params = ops.cast(params, "float32")
        channels = params.shape[-1] // (2 + self.rank)
        mean, raw, a = ops.split(params, [channels, 2 * channels], axis=-1)
        a = ops.reshape(soft_clip(a, -MAX_FACTOR, MAX_FACTOR), (*ops.shape(mean), self.rank))
        return mean, self.bounded(raw), a

    def flat(self, values: Any, *last: int) -> Any:
        """Reshape `(…, *event, *last)` to `(…, N, *last)`."""
        shape, end = ops.shape(values), len(values.shape) - len(last)
        event = values.shape[end - self.event_rank : end]
        return ops.reshape(values, (*shape[: end - self.event_rank], math.prod(event), *last))

    def log_prob(self, params: Any, value: Any) -> Any:
        mean, log_scale, a = self.split(params)
        e = self.flat((ops.cast(value, "float32") - mean) * ops.exp(-log_scale))  # (…, N)
        a = self.flat(a, self.rank)  # (…, N, R)
        rows = cholesky_of_identity_plus(ops.matmul(ops.swapaxes(a, -1, -2), a))
        u = cholesky_solve(rows, ops.matmul(e[..., None, :], a)[..., 0, :])  # (…, R)
        # |e − A u|² + |u|² is minimal at this u, so rounding of u hardly matters, unlike in |e|² − (Aᵀe)ᵀu.
        rest = e - ops.matmul(a, u[..., None])[..., 0]
        square = ops.sum(ops.square(rest), axis=-1) + ops.sum(ops.square(u), axis=-1)
        log_determinant = 2 * (self.sum_event(log_scale) + sum(ops.log(row[-1]) for row in rows))
        return -0.5 * (e.shape[-1] * LOG_2PI + log_determinant + square)

    def sample(self, params: Any, n: int, seed: Seed) -> Any:
        mean, log_scale, a = self.split(params)
        shape, size = (n, *ops.shape(mean)), math.prod(mean.shape[-self.event_rank :])
        epsilon = standard_normal((*shape[: -self.event_rank], size + self.rank), seed)
        own, common = ops.split(epsilon, [size], axis=-1)  # (n, B, N), (n, B, R)
        common = ops.matmul(self.flat(a, self.rank), common[..., None])[..., 0]
        return mean + ops.exp(log_scale) * ops.reshape(own + common, shape)

    def mean(self, params: Any) -> Any:
        return self.split(params)[0]

    def variance(self, params: Any) -> Any:
        _, log_scale, a = self.split(params)
        return ops.exp(2 * log_scale) * (1 + ops.sum(ops.square(a), axis=-1))

    def covariance(self, params: Any) -> Any:
        _, log_scale, a = self.split(params)
        a, scale = self.flat(a, self.rank), ops.exp(self.flat(log_scale))
        correlated = ops.eye(scale.shape[-1], dtype="float32") + ops.matmul(a, ops.swapaxes(a, -1, -2))
        return scale[..., :, None] * correlated * scale[..., None, :]
