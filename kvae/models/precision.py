"""In which precision networks compute."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def float32_compute(model: Any) -> Iterator[None]:
    """The model computes in float32 inside, whatever its dtype policy: exported files do.

    Of a model that was trained in mixed precision, the weights are float32 anyway. What was compiled before, such as
    `model.predict`, stays as it is.

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
            if layer.compute_dtype != "float32" and layer.variable_dtype == "float32":
                changed.append((layer, layer.dtype_policy))
                layer.dtype_policy = "float32"
        yield
    finally:
        for layer, policy in changed:
            layer.dtype_policy = policy
