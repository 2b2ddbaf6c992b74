"""The precision in which networks compute and are trained."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def float32_compute(model: Any) -> Iterator[None]:
    """Make a model compute in float32 inside the block, as exported files do, whatever its dtype policy.

    Weights keep their dtype: float32 in mixed precision, and float16, bfloat16 or float64 under these policies.
    Functions that were compiled before, such as `model.predict`, stay as they are.

    Args:
        model: any Keras model, built.

    Example:

        >>> import kvae, keras
        >>> vae = kvae.VAE(
        ...     encoder=kvae.Encoder(2, kvae.networks.MLP((8,), dtype="mixed_bfloat16")),
        ...     decoder=kvae.Decoder((8, 8, 1)),
        ... )
        >>> with float32_compute(vae):
        ...     print(vae.encoder.body.compute_dtype)
        float32
        >>> vae.encoder.body.compute_dtype
        'bfloat16'
    """
    changed = []
    try:
        for layer in model._flatten_layers():
            if layer.compute_dtype != "float32":
                changed.append((layer, layer.dtype_policy))
                layer.dtype_policy = _computing_in_float32(layer.dtype_policy)
        yield
    finally:
        for layer, policy in changed:
            layer.dtype_policy = policy


FLOAT16_EPSILON = 0.01


def fit_epsilon(optimizer: Any, weights: list[Any], change: bool) -> None:
    """Prevent an optimizer such as Adam from dividing by almost zero if weights are float16.

    Its average of squared gradients is float16, too: (1 − β₂) g² is 0 for gradients below 0.008. The divisor is then an
    `epsilon` of 1e-7, and steps are a thousand times too long.

    Args:
        change: whether to raise `epsilon` to 0.01. If not, a warning says so.
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    epsilon = getattr(optimizer, "epsilon", None)
    if epsilon is None or epsilon >= FLOAT16_EPSILON or all(weight.dtype != "float16" for weight in weights):
        return
    if change:
        optimizer.epsilon = FLOAT16_EPSILON
    else:
        warnings.warn(
            f"Weights are float16, too coarse for {type(optimizer).__name__}(epsilon={epsilon}): use the policy "
            f"'mixed_float16', or epsilon={FLOAT16_EPSILON}",
            stacklevel=3,
        )


def _computing_in_float32(policy: Any) -> Any:
    """Return the policy with compute dtype float32. Keras has no named policy for this with other weights."""
    policy = copy.copy(policy)
    policy._compute_dtype = "float32"
    return policy
