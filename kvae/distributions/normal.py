"""N(mean, scale²) with one scale for all pixels, or one for each, that is no output of the network."""

import keras

from kvae.distributions.diagonal_normal import normal_log_density
from kvae.distributions.location_scale import SharedScale
from kvae.distributions.noise import standard_normal


@keras.saving.register_keras_serializable("kvae")
class Normal(SharedScale):
    """Normal likelihood: the decoder gives the mean of x, and one standard deviation serves every pixel.

    Fixed, it weighs the squared error (a fixed scale σ is the same trade as β = 2σ² in front of the KL term);
    learned, the data decide (Rybkin et al. 2021, "σ-VAE", https://arxiv.org/abs/2006.13202, §3.1). The density
    keeps its constants, so that the ELBO is a bound on log p(x) for x in [0, 1]. For a variance from the network
    take `DiagonalNormal`; for the best scale of each batch, without a weight to train, `OptimalNormal`.

    Args:
        scale: standard deviation (initial value, if learned), > 0.
        learned: whether the scale is a weight that is trained.
        per_pixel: whether each pixel has a learned scale of its own, the same for all images.

    Raises:
        ValueError: if scale is not a number between 0.001 and 1000, or for scales per pixel that aren't learned.

    Example:

        >>> from keras import ops
        >>> p = Normal(scale=0.5)
        >>> p.build((None, 8, 8, 1))
        >>> p.log_prob(ops.zeros((1, 8, 8, 1)), ops.zeros((2, 8, 8, 1))).shape
        TensorShape([2])
    """

    log_density = staticmethod(normal_log_density)
    noise = staticmethod(standard_normal)
