"""Encoder and decoder, and the bodies that they use."""

from kvae.networks.bodies import MLP, ConvDown, ConvUp, DepthToSpace
from kvae.networks.decoder import Decoder, check_image_shape
from kvae.networks.encoder import Encoder

__all__ = ["MLP", "ConvDown", "ConvUp", "Decoder", "DepthToSpace", "Encoder", "check_image_shape"]
