"""The command `python -m kvae.export.runtime`: run or test a file without TensorFlow."""

import argparse
import contextlib
import csv
import io
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from kvae.export.runtime import Model, load


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status. Errors are one line on stderr."""
    with contextlib.ExitStack() as before:
        for stream in (sys.stdout, sys.stderr):  # a stream that can't encode × shows a question mark
            if isinstance(stream, io.TextIOWrapper):
                before.callback(stream.reconfigure, errors=stream.errors)
                stream.reconfigure(errors="replace")
        return _main(arguments)


def _main(arguments: list[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m kvae.export.runtime",
        description="Run an exported VAE or classifier with only NumPy and ai-edge-litert.",
        epilog="example: python -m kvae.export.runtime vae_int8.tflite --generate 16 --seed 7 --out grid.png",
    )
    parser.add_argument("file", help=".tflite file made by kvae.export")
    parser.add_argument(
        "--generate", type=int, metavar="N", help="number of images to draw; without it, describe the file"
    )
    parser.add_argument("--seed", type=int, help="random seed; gives the same images as in Keras")
    parser.add_argument("--temperature", type=float, default=1.0, help="scale of the prior's noise (default: 1)")
    parser.add_argument("--condition", help="number or name of a class (conditional models only)")
    parser.add_argument(
        "--classify",
        type=Path,
        metavar="IMAGES",
        help=".npy array of images (N, H, W, C), in the value range of the model",
    )
    parser.add_argument(
        "--watch",
        metavar="CSV",
        help="CSV file of samples with a header (- for standard input): print the score of each window, and alarms",
    )
    parser.add_argument("--every", type=int, default=1, help="samples between scores of --watch (default: 1)")
    parser.add_argument("--alpha", type=float, help="largest p-value that raises an alarm (default: the smallest)")
    parser.add_argument("--per-day", type=float, help="expected false alarms in a day, instead of --alpha")
    parser.add_argument("--alarms-only", action="store_true", help="print only windows that raise an alarm")
    parser.add_argument(
        "--score",
        type=Path,
        metavar="IMAGES",
        help=".npy array of images (N, H, W, C): print −ELBO in nats, percentile and p-value of each",
    )
    parser.add_argument(
        "--out", type=Path, help=".png grid or .npy array (N, H, W, C) of images; with --classify, .npy array (N, C)"
    )
    parser.add_argument("--threads", type=int, default=1, help="number of threads (default: 1)")
    parser.add_argument("--self-test", action="store_true", help="replay the golden pairs next to the file")
    options = parser.parse_args(arguments)
    if sum(option is not None for option in (options.generate, options.classify, options.score)) > 1:
        parser.error("expected one of --generate, --classify and --score")
    if options.out is not None and options.generate is None and options.classify is None:
        parser.error("--out requires --generate N or --classify IMAGES")
    if options.out is not None and options.classify is not None and options.out.suffix != ".npy":
        parser.error(f"--out of --classify must be a .npy file for the probabilities. Received: {options.out}")
    try:
        model = load(options.file, num_threads=options.threads)
        if options.self_test:
            for name, error in model.self_test().items():
                print(f"{name}: passed (largest difference {error:.2g})")
        if options.watch is not None:
            return _watch(model, options)
        if options.classify is not None:
            _classify(model, options.classify, options.out)
            return 0
        if options.score is not None:
            _score(model, options.score, options.condition)
            return 0
        if options.generate is None:
            if not options.self_test:
                _describe(model)
            return 0
        images = model.generate(
            options.generate, seed=options.seed, temperature=options.temperature, condition=options.condition
        )
        if options.out is None:
            values = f"values from {images.min():.4f} to {images.max():.4f}"
            print(f"{images.shape} images, {values}; save them with --out")
        else:
            save(images, options.out)
            print(f"{len(images)} images in {options.out}")
    except (ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def save(images: np.ndarray, path: Path) -> None:
    """Write images `(N, H, W, C)` as an array (`.npy`) or as one nearly square grid (any other suffix)."""
    if path.suffix == ".npy":
        np.save(path, images)
        return
    if images.ndim != 4:
        raise ValueError(
            f"Expected images for an image file. Received: shape {images.shape}; use a .npy name for --out"
        )
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("image files require Pillow: pip install pillow, or use a .npy name for --out") from error
    pixels = grid((np.clip(images, 0, 1) * 255).round().astype("uint8"))
    if pixels.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"Expected 1, 3 or 4 channels for an image file. Received: {pixels.shape[-1]}; use a .npy name for --out"
        )
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path)


def grid(images: np.ndarray) -> np.ndarray:
    """Arrange images `(N, H, W, C)` in a grid with black empty places: `(rows·H, columns·W, C)`.

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


def _read_images(file: Path) -> np.ndarray:
    """Read an array of images from a `.npy` file."""
    try:
        images = np.load(file, allow_pickle=False)
    except (EOFError, ValueError) as error:  # NumPy's message suggests loading a pickle
        raise ValueError(
            f"Expected a .npy array of numbers, as numpy.save writes it. Received: '{file}', which is truncated, has "
            "Python objects or another format"
        ) from error
    if not isinstance(images, np.ndarray):
        raise ValueError(f"Expected one .npy array of images. Received: '{file}', an archive of {', '.join(images)}")
    return images


def _score(model: Model, file: Path, condition: str | None) -> None:
    """Print the score of each image, and where it is among ordinary images if the file has their scores."""
    nats = model.score(_read_images(file), condition=condition)["negative_elbo"]
    known = model.info.get("score") or {}
    columns = [[f"{value:.2f} nats" for value in nats]]
    if known.get("quantiles"):
        columns.append([f"percentile {value:.1f}" for value in model.percentile(nats)])
    if known.get("calibration"):
        columns.append([f"p {value:.4f}" for value in model.p_value(nats)])
    for i, texts in enumerate(zip(*columns)):
        print(f"{i}: {', '.join(texts)}")


def _classify(model: Model, file: Path, out: Path | None) -> None:
    """Print the most probable class of each image, or write all probabilities to `out`."""
    probability = model.classify(_read_images(file))
    if out is not None:
        np.save(out, probability)
        print(f"probabilities {probability.shape} in {out}")
        return
    for i, row in enumerate(probability):
        best = int(row.argmax())
        print(f"{i}: {model.class_names[best] if model.class_names else best} {row[best]:.4f}")


def _watch(model: Model, options: argparse.Namespace) -> int:
    """Print time or number, score and p-value of the windows of a CSV file. Exit status 3 after an alarm."""
    alpha = options.alpha
    if alpha is None and options.per_day is None and model.calibration_size:
        alpha = 1 / (model.calibration_size + 1)
    watch = model.watch(options.every, alpha, options.per_day)
    names = [str(feature["name"]) for feature in model.info.get("features", [])]
    raised = 0
    with contextlib.ExitStack() as opened:
        file: Any = sys.stdin
        if options.watch != "-":
            file = opened.enter_context(open(options.watch, newline="", encoding="utf-8"))
        rows = csv.DictReader(file)
        header = list(rows.fieldnames or [])
        columns = names or header[-watch.features :]
        if missing := [name for name in columns if name not in header]:
            raise ValueError(
                f"Expected the columns {', '.join(columns)}. Received: a file without {', '.join(missing)}"
            )
        if len(columns) != watch.features:
            raise ValueError(f"Expected {watch.features} columns of numbers. Received: {', '.join(header)}")
        label = next((name for name in header if name not in columns), None)
        for number, row in enumerate(rows):
            try:
                sample = [float(row[name]) for name in columns]
            except (TypeError, ValueError):
                sample = [math.nan]
            if not all(map(math.isfinite, sample)):
                print(f"row {number}: a value is missing; the window starts again", file=sys.stderr)
                watch.reset()
                continue
            reading = watch.push(sample)
            if reading is None or (options.alarms_only and not reading.alarm):
                continue
            raised += reading.alarm
            p_value = "" if reading.p_value is None else f"  p {reading.p_value:.4f}"
            when = row[label] if label else number
            print(f"{when}  {reading.score:.2f} nats{p_value}{'  ALARM' if reading.alarm else ''}", flush=True)
    return 3 if raised else 0


def _describe(model: Model) -> None:
    info = model.info
    parts = ", ".join(f"{part} {info[part]}" for part in ("prior", "posterior", "likelihood") if info[part])
    latents = "" if model.latent_dim is None else f", {model.latent_dim} latents; {parts}"
    noun = {"image": "images", "row": "rows", "volume": "volumes"}.get(info["event"], info["event"])
    print(f"{info['kind']} of {'×'.join(map(str, model.event_shape))} {noun}{latents}")
    if "classes" in info:
        print(f"{info['classes']['size']} classes" + (f": {', '.join(model.class_names)}" if model.class_names else ""))
    if model.condition_dim is not None:
        names = info["condition"]["names"]
        print(f"conditional: {model.condition_dim} conditions" + (f", {', '.join(names)}" if names else ""))
    for name, found in model.directions.items():
        print(f"direction {name}: {found['low']:.2f} to {found['high']:.2f} steps of {found['distance']:.3g}")
    print(f"trained on {info['data'] or 'unknown data'}; batch sizes {model.batch_sizes}")
    for name, signature in info["signatures"].items():
        sides = [
            ", ".join(f"{key} {spec['dtype']} ({', '.join(map(str, spec['shape']))})" for key, spec in side.items())
            for side in (signature["inputs"], signature["outputs"])
        ]
        print(f"{name}: {sides[0]} -> {sides[1]}")
