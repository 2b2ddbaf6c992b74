"""Decoder files from several exporters, for the other scripts of this folder."""

import contextlib
import io
from pathlib import Path
from typing import Any

import keras

import kvae


class Decoder(keras.Model):
    """The computation of every contestant: z to the mean of x."""

    def __init__(self, vae: kvae.VAE):
        super().__init__()
        self.decoder, self.likelihood = vae.decoder, vae.likelihood

    def call(self, z: Any) -> Any:
        return self.likelihood.mean(self.decoder(z))


def by_keras(vae: kvae.VAE, path: Path, size: int) -> Decoder:
    """Write the decoder to `path` by Keras's own LiteRT export, for batches of this size. Return it as a model."""
    model = Decoder(vae)
    shape = (size, vae.latent_dim)
    model.build(shape)
    with contextlib.redirect_stdout(io.StringIO()):
        model.export(
            path, format="litert", verbose=False, input_signature=[keras.InputSpec(shape=shape, dtype="float32")]
        )
    return model


def by_kvae(vae: kvae.VAE, folder: Path, **settings: Any) -> bool:
    """Export to `folder`, with ONNX if possible. Return whether ONNX was exported."""
    try:
        kvae.export.export(vae, folder, with_onnx=True, **settings)
    except kvae.export.ExportError as error:
        print(f"without ONNX: {error}")
        kvae.export.export(vae, folder, **settings)
        return False
    return True
