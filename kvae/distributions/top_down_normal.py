"""The posterior of a hierarchy of latents, drawn together with the decoder's pass."""

from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from kvae.distributions.base import Distribution
from kvae.distributions.diagonal_normal import DiagonalNormal, normal_log_density, standard_kl
from kvae.distributions.noise import Seed, standard_normal


class Pass(NamedTuple):
    """A pass through encoder and decoder with n latents for each of B images."""

    z: Any  # (n, B, D)      latents
    mean: Any  # (n, B, D)      mean of q(z_l | z_<l, x) of every latent
    log_scale: Any  # (n, B, D)      its log-scale
    rates: Any  # (n, B, L)      KL(q(z_l | z_<l, x) ‖ N(0, I)) of every layer, nats
    params: Any  # (n, B, H, W, P)  raw parameters of p(x|z)


@keras.saving.register_keras_serializable("kvae")
class TopDownNormal(Distribution):
    """q(z|x) = Π q(z_l | z_<l, x), a diagonal normal for each layer of a hierarchy, for `kvae.networks.TopDown`.

    Mean and scale of a layer depend on the image and, through the state of the decoder, on the latents of the layers
    above: inference and generation share the path from the top (Sønderby et al. 2016,
    https://arxiv.org/abs/1602.02282). They are relative to the prior of the layer, because the decoder's latents are
    the prior's noise: the residual normal of Vahdat & Kautz 2020 (https://arxiv.org/abs/2007.03898, §3.2).

    The raw parameters are the features of the encoder, followed by the condition of a conditional model.

    A density or a sample requires a pass of the decoder. `mean` and `variance` belong to the latents that are the means
    of each layer, given the means of the layers above.

    Args:
        min_scale, max_scale: bounds of the standard deviations, 0 < min_scale < 1 < max_scale.

    Raises:
        ValueError: for other bounds, or if the networks of the model aren't `BottomUp` and `TopDown` with equal levels.

    Example:

        >>> import kvae
        >>> shape, levels = (8, 8, 1), [(4, 2, 2, 8), (2, 1, 1, 8)]
        >>> networks = kvae.networks.BottomUp(shape, levels), kvae.networks.TopDown(shape, levels)
        >>> vae = kvae.VAE(*networks, posterior=TopDownNormal())
        >>> vae.encode(ops.zeros((3, 8, 8, 1))).mean.shape  # 2 · 2 · 2 · 2 + 4 · 4 · 1
        TensorShape([3, 32])
    """

    roles = ("posterior",)
    is_joint = True

    def __init__(self, min_scale: float = 1e-2, max_scale: float = 1e2, **kwargs: Any):
        super().__init__(**kwargs)
        self.min_scale, self.max_scale = min_scale, max_scale
        self.layer = DiagonalNormal(min_scale, max_scale)

    def connect(self, model: Any) -> None:
        encoder, decoder = model.encoder, model.decoder
        levels = getattr(encoder, "levels", None), getattr(decoder, "levels", None)
        if levels[0] is None or levels[0] != levels[1]:
            raise ValueError(
                "TopDownNormal requires the networks BottomUp and TopDown with the same levels. Received: "
                f"encoder={type(encoder).__name__} with levels={levels[0]}, decoder={type(decoder).__name__} with "
                f"levels={levels[1]}"
            )
        # A function, because Keras would track and save parts of the model that are attributes.
        self.networks: Callable[[], Any] = lambda: (encoder, decoder)

    def param_size(self, event_shape: tuple[int, ...]) -> int:
        encoder, _ = self.networks()
        return int(encoder.param_size)

    def walk(self, params: Any, noise: Any = None, z: Any = None) -> Pass:
        """Pass through the decoder with latents from `noise` `(n, B, D)`, mean + scale · noise, or with latents `z`."""
        encoder, decoder = self.networks()
        given = ops.cast(noise if z is None else z, "float32")
        n, batch, size = ops.shape(given)
        own = params[..., : encoder.param_size]
        features, parts = encoder.split(own), decoder.split(ops.reshape(given, (-1, size)))
        collected: tuple[list[Any], ...] = ([], [], [], [])

        def latents(number: int, state: Any) -> Any:
            mean, log_scale = self.layer.split(encoder.layer_params(number, features, state))
            value = mean + ops.exp(log_scale) * parts[number] if z is None else parts[number]
            for values, tensor in zip(collected, (value, mean, log_scale, standard_kl(mean, log_scale))):
                values.append(ops.reshape(tensor, (n, batch, -1)))
            return value

        c = params[..., encoder.param_size :]
        repeated = ops.reshape(ops.broadcast_to(c, (n, *ops.shape(c))), (-1, c.shape[-1])) if c.shape[-1] else None
        outputs = decoder.walk(latents, n * batch, repeated)
        outputs = ops.reshape(outputs, (n, batch, *outputs.shape[1:]))
        value, mean, log_scale = (ops.concatenate(parts, axis=-1) for parts in collected[:3])
        rates = ops.stack([ops.sum(rate, axis=-1) for rate in collected[3]], axis=-1)
        return Pass(value, mean, log_scale, rates, outputs)

    def draw(self, params: Any, n: int, seed: Seed) -> tuple[Any, Pass]:
        """Return log q(z|x) `(n, B)` of n samples, and the pass that drew them."""
        _, decoder = self.networks()
        noise = standard_normal((n, ops.shape(params)[0], decoder.latent_dim), seed)
        drawn = self.walk(params, noise)
        return ops.sum(normal_log_density(noise, 0.0, 0.0) - drawn.log_scale, axis=-1), drawn

    def sample_and_log_prob(self, params: Any, n: int, seed: Seed) -> tuple[Any, Any]:
        log_q, drawn = self.draw(params, n, seed)
        return drawn.z, log_q

    def sample(self, params: Any, n: int, seed: Seed) -> Any:
        return self.sample_and_log_prob(params, n, seed)[0]

    def log_prob(self, params: Any, value: Any) -> Any:
        *lead, batch, size = ops.shape(value)
        found = self.walk(params, z=ops.reshape(value, (-1, batch, size)))
        log_q = ops.sum(normal_log_density(found.z, found.mean, found.log_scale), axis=-1)
        return ops.reshape(log_q, (*lead, batch))

    def middle(self, params: Any) -> Pass:
        """Return the pass in which the latents of each layer are its means, given those above."""
        _, decoder = self.networks()
        return self.walk(params, ops.zeros((1, ops.shape(params)[0], decoder.latent_dim), "float32"))

    def moments(self, params: Any) -> tuple[Any, Any]:
        found = self.middle(params)
        return found.mean[0], ops.exp(2 * found.log_scale[0])

    def top_moments(self, params: Any) -> tuple[Any, Any]:
        _, decoder = self.networks()
        mean, variance = self.moments(params)  # a graph leaves out the lower levels
        return mean[:, : decoder.level_sizes[0]], variance[:, : decoder.level_sizes[0]]

    def mean(self, params: Any) -> Any:
        return self.moments(params)[0]

    def variance(self, params: Any) -> Any:
        return self.moments(params)[1]

    def covariance(self, params: Any) -> Any:
        """Raise ValueError: the latents of a layer depend on those above, and the matrix has no closed form."""
        raise ValueError(
            "TopDownNormal has no covariance matrix in closed form. Received: a call of `covariance`; `variance` is "
            "that of each layer, given the means of the layers above"
        )
