"""Memory and time per image of training, by the size of the images: rendered faces, 64×64 to 256×256, as PNG files.

    python benchmarks/training/sizes.py
    python benchmarks/training/sizes.py --networks default --sides 64 --steps 4        # quick check

Each row is a process of its own that reads the files as `kvae train FOLDER` does, decoded again on every pass, with the
batch size that `kvae train` takes for the size. `exponent` is the slope of log seconds per image over log pixels: 1 is
linear. Memory is the peak resident set of the process; `import kvae` and TensorFlow take about 0.5 GB of it.
"""

import argparse
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
    from kvae.training.loop import fit  # noqa: F401 (TensorFlow is imported before the clock starts)
    from kvae.training.parts import model_of
    from kvae.training.settings import Settings

    settings = Settings(folder, recipe=recipe)
    settings = settings.with_recipe(set()) if recipe else settings
    images = settings.load(cache_bytes=0)
    settings = settings.for_data(images)
    assert settings.batch_size is not None
    vae = model_of(settings, images)
    vae.compile("adam")
    batches = images.batches("train", batch_size=settings.batch_size, shuffle=True).repeat()
    vae.fit(batches, steps_per_epoch=steps, verbose=0)
    started = time.perf_counter()
    vae.fit(batches, steps_per_epoch=steps, verbose=0)
    seconds = time.perf_counter() - started
    return {
        "weights": vae.count_params(),
        "latents": vae.latent_dim,
        "batch_size": settings.batch_size,
        "ms_per_image": round(1000 * seconds / steps / settings.batch_size, 2),
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
