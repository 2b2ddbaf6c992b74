"""The command behind `python -m kvae.export.runtime`: sample from a file, without TensorFlow."""

import argparse
import math
import sys
from pathlib import Path

import numpy as np

from kvae.export.runtime import load


def main(arguments: list[str] | None = None) -> int:
    """Run the command; its exit status. Errors are one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m kvae.export.runtime",
        description="Sample images from an exported VAE with NumPy and ai-edge-litert alone.",
        epilog="example: python -m kvae.export.runtime vae_int8.tflite --sample 16 --seed 7 --out grid.png",
    )
    parser.add_argument("file", help="a .tflite file that kvae.export made")
    parser.add_argument("--sample", type=int, metavar="N", help="draw N images; without it, describe the file")
    parser.add_argument("--seed", type=int, help="the same seed gives the same images")
    parser.add_argument("--out", type=Path, help="a .png grid, or a .npy array (N, H, W, C)")
    parser.add_argument("--threads", type=int, default=1, help="for the kernels (default: 1)")
    options = parser.parse_args(arguments)
    if options.out is not None and options.sample is None:
        parser.error("--out needs --sample N: how many images to draw")
    try:
        model = load(options.file, num_threads=options.threads)
        if options.sample is None:
            _describe(model.signatures)
            return 0
        images = model.sample(options.sample, seed=options.seed)
        if options.out is None:
            values = f"values from {images.min():.4f} to {images.max():.4f}"
            print(f"{images.shape} images, {values}; --out keeps them")
        else:
            save(images, options.out)
            print(f"{len(images)} images in {options.out}")
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def save(images: np.ndarray, path: Path) -> None:
    """Write images `(N, H, W, C)` as an array (`.npy`) or as one picture, near-square (any other suffix)."""
    if path.suffix == ".npy":
        np.save(path, images)
        return
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("a picture needs Pillow: pip install pillow, or give --out a .npy name") from error
    pixels = grid((np.clip(images, 0, 1) * 255).round().astype("uint8"))
    if pixels.shape[-1] not in (1, 3, 4):
        raise ValueError(f"a picture has 1, 3 or 4 channels. Received: {pixels.shape[-1]}; give --out a .npy name")
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path)


def grid(images: np.ndarray) -> np.ndarray:
    """Images `(N, H, W, C)` side by side in rows, what is left over black: `(rows·H, columns·W, C)`.

    Example:

        >>> grid(np.zeros((5, 8, 8, 1))).shape
        (16, 24, 1)
    """
    n, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    canvas = np.zeros((rows * columns, height, width, channels), images.dtype)
    canvas[:n] = images
    tiles = canvas.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return tiles.reshape(rows * height, columns * width, channels)


def _describe(signatures: dict[str, dict[str, dict[str, tuple[int | None, ...]]]]) -> None:
    for name, signature in signatures.items():
        sides = [
            ", ".join(f"{key} ({', '.join('B' if size is None else str(size) for size in shape)})"
                      for key, shape in signature[side].items())
            for side in ("inputs", "outputs")
        ]  # fmt: skip
        print(f"{name}: {sides[0]} -> {sides[1]}")
