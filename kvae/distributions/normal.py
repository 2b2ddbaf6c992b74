"""N(mean, scale²) with a scale that isn't an output of the network: one for all pixels, or one for each."""

import keras

from kvae.distributions.diagonal_normal import normal_log_density
from kvae.distributions.location_scale import SharedScale
from kvae.distributions.noise import standard_normal


@keras.saving.register_keras_serializable("kvae")
class Normal(SharedScale):
    """Normal likelihood: the decoder returns the mean of x, and all pixels have the same standard deviation.

    A fixed scale weights the squared error: the scale σ has the same effect as β = 2σ² before the KL term. A learned
    scale fits the data (Rybkin et al. 2021, "σ-VAE", https://arxiv.org/abs/2006.13202, §3.1). The density includes its
    constants, so that the ELBO is a bound on log p(x) for x in [0, 1]. For a variance from the network, use
    `DiagonalNormal`. For the best scale of each batch, without a trainable weight, use `OptimalNormal`.

    Args:
        scale: standard deviation (initial value, if learned), > 0.
        learned: whether the scale is a trainable weight.
        per_pixel: whether each pixel has its own learned scale, the same for all images.

    Raises:
        ValueError: if scale is not a number between 0.001 and 1000, or if `per_pixel` is true and `learned` is not.

    Example:

        >>> from keras import ops
        >>> p = Normal(scale=0.5)
        >>> p.build((None, 8, 8, 1))
        >>> p.log_prob(ops.zeros((1, 8, 8, 1)), ops.zeros((2, 8, 8, 1))).shape
        TensorShape([2])
    """

    log_density = staticmethod(normal_log_density)
    noise = staticmethod(standard_normal)
