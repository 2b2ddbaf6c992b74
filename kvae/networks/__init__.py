"""Encoder, decoder and their bodies."""

from kvae.networks.bodies import MLP, ConvDown, ConvUp, DepthToSpace, GatedDense
from kvae.networks.decoder import Decoder, check_image_shape
from kvae.networks.encoder import Encoder
from kvae.networks.residual import ResidualBlock, ResidualDown, ResidualUp

__all__ = [
    "MLP",
    "ConvDown",
    "ConvUp",
    "Decoder",
    "DepthToSpace",
    "Encoder",
    "GatedDense",
    "ResidualBlock",
    "ResidualDown",
    "ResidualUp",
    "check_image_shape",
]
