"""The single latents of a posterior."""

from typing import Any

from keras import ops

from kvae.distributions import DiagonalLaplace, DiagonalNormal

#: Families whose latents are independent given x. Their raw parameters are blocks of D numbers.
FACTORIZED = (DiagonalNormal, DiagonalLaplace)


def one_by_one(q: Any, latent_dim: int) -> Any:
    """Reshape raw parameters `(B, P)` of a factorised posterior to those of D posteriors of one latent, `(B, D, P/D)`.

    The family treats them as D times as many examples, with events of size 1.

    Example:

        >>> one_by_one(ops.convert_to_tensor([[1.0, 2.0, 3.0, -1.0, -2.0, -3.0]]), 3).numpy()
        array([[[ 1., -1.],
                [ 2., -2.],
                [ 3., -3.]]], dtype=float32)
    """
    return ops.swapaxes(ops.reshape(q, (-1, q.shape[-1] // latent_dim, latent_dim)), 1, 2)
