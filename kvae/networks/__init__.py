"""Encoder, decoder and their bodies."""

from kvae.networks.bodies import MLP, ConvDown, ConvUp, DepthToSpace, GatedDense
from kvae.networks.bottom_up import BottomUp
from kvae.networks.decoder import Decoder
from kvae.networks.encoder import Encoder
from kvae.networks.events import check_event_shape, kind_of
from kvae.networks.levels import Level, pyramid
from kvae.networks.residual import ResidualBlock, ResidualDown, ResidualUp
from kvae.networks.top_down import TopDown

__all__ = [
    "MLP",
    "BottomUp",
    "ConvDown",
    "ConvUp",
    "Decoder",
    "DepthToSpace",
    "Encoder",
    "GatedDense",
    "Level",
    "ResidualBlock",
    "ResidualDown",
    "ResidualUp",
    "TopDown",
    "check_event_shape",
    "kind_of",
    "pyramid",
]
