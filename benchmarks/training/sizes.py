"""Memory and time per image of training, by the size of the images: rendered faces, 64×64 to 256×256, as PNG files.

    python benchmarks/training/sizes.py
    python benchmarks/training/sizes.py --networks default --sides 64 --steps 4        # quick check

Each row is a process of its own that decodes the files on every pass, as `kvae train FOLDER` does if they don't fit in
its cache of 1 GiB, with the batch size that it takes for the size of the images. `exponent` is the slope of log seconds
per image over log pixels: 1 is linear. Memory is the peak resident set of the process; `import kvae` and TensorFlow
take about 0.5 GB of it.
"""

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from common import store

NETWORKS = {"default": None, "ladder": "ladder", "deep_color": "deep_color"}
SIDES = (64, 128, 256)


def write_faces(folder: Path, n: int, side: int) -> None:
    from PIL import Image

    import kvae

    (folder / "faces").mkdir(parents=True)
    for start in range(0, n, 64):
        for i, image in enumerate(kvae.data.faces(min(64, n - start), side, seed=start).images):
            Image.fromarray(np.rint(image * 255).astype(np.uint8)).save(folder / f"faces/{start + i:05d}.png")


def measure(folder: str, recipe: str | None, steps: int) -> dict:
    """Train for `steps` steps after as many to warm up, and return the measurements."""
    import keras

    import kvae
    from kvae.training.parts import model_of
    from kvae.training.settings import Settings, default_batch_size

    settings = Settings(folder, recipe=recipe)
    settings = settings.with_recipe(set()) if recipe else settings
    if settings.precision != "float32":
        keras.config.set_dtype_policy(f"mixed_{settings.precision}")
    images = kvae.data.load(folder, cache_bytes=0)
    batch_size = default_batch_size(images.image_shape, recipe)
    vae = model_of(settings.for_data(dataclasses.replace(images, batch_size=batch_size)), images)
    vae.compile(kvae.optimizers.FusedAdam(1e-3, global_clipnorm=200.0))
    batches = images.split("train", shuffle=True, batch_size=batch_size).repeat().rebatch(batch_size)
    vae.fit(batches, steps_per_epoch=steps, verbose=0)
    started = time.perf_counter()
    vae.fit(batches, steps_per_epoch=steps, verbose=0)
    seconds = time.perf_counter() - started
    return {
        "weights": vae.count_params(),
        "latents": vae.latent_dim,
        "batch_size": batch_size,
        "ms_per_image": round(1000 * seconds / steps / batch_size, 2),
        "peak_MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", choices=list(NETWORKS), default=list(NETWORKS))
    parser.add_argument("--sides", nargs="*", type=int, default=list(SIDES))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "NETWORK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one[0], NETWORKS[options.one[1]], options.steps)))
        sys.exit()
    table: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as root:
        for side in options.sides:
            write_faces(Path(root) / str(side), 320, side)
        for network in options.networks:
            rows = {}
            for side in options.sides:
                command = [sys.executable, __file__, "--steps", str(options.steps), "--one", f"{root}/{side}", network]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                rows[side] = json.loads(done.stdout.splitlines()[-1])
                print(f"{network:<12}{side:>4}  {rows[side]}", flush=True)
            table[network] = {"rows": rows}
            if len(rows) > 1:
                pixels, ms = np.log([side**2 for side in rows]), np.log([row["ms_per_image"] for row in rows.values()])
                table[network]["exponent"] = round(float(np.polyfit(pixels, ms, 1)[0]), 2)
                print(f"{network:<12}exponent {table[network]['exponent']}", flush=True)
    if options.steps >= 20 and options.networks == list(NETWORKS):
        store("training_sizes", {"steps": options.steps, "table": table})
