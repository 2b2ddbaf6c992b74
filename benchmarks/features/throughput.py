"""Features per second: kvae's functions against `model.predict` and the encoder as a SavedModel.

    python benchmarks/features/throughput.py
    python benchmarks/features/throughput.py --images 2000 --rounds 2 --memory 2000        # quick check

Speed: one encoder (the default networks, 28×28 images, 16 latents), one array of images, one process. Contestants take
turns, and each returns the latent means of all images. Memory: each measurement runs in a new process, with n and 10·n
images and the hidden layer, streamed to a file (as in `kvae features`) or held in memory.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import tensorflow as tf
from common import interleaved, rates, store

import kvae
from kvae.features import extract, feature_model
from kvae.features.streaming import write_features

SHAPE, LATENTS = (28, 28, 1), 16
BATCHES = {"predict, batch 32 (Keras's default)": 32, "predict, batch 256": 256}

#: program of a new process: prints peak memory in MB, before and after the features
MEMORY = """
import resource, sys
import numpy as np, kvae
from kvae.features import extract
from kvae.features.streaming import write_features
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
way, model, images, out, limit = sys.argv[1:]
vae, data = kvae.load(model), kvae.data.load(images, validation_fraction=0, test_fraction=0)
write_features(vae, data, out + ".warm.npz", limit=512)
before = peak()
if way == "streamed to a file":
    write_features(vae, data, out, limit=int(limit))
else:
    np.savez(out, **extract(vae, data.arrays("train", int(limit))[0]))
print(before, peak())
"""


def saved_model(vae: kvae.VAE, folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Return the encoder's signature of a SavedModel, for 256 images per call."""
    encoder = feature_model(vae)
    path = str(folder / "saved_model")
    encoder.export(path, verbose=False)
    loaded = tf.saved_model.load(path)

    def run(images: np.ndarray) -> np.ndarray:
        batches = [tf.constant(images[i : i + 256]) for i in range(0, len(images), 256)]
        return np.concatenate([loaded.serve([batch]).numpy() for batch in batches])

    return run


def speed(images: int, rounds: int) -> dict[str, Any]:
    x = np.random.default_rng(0).random((images, *SHAPE), "float32")
    vae = kvae.VAE(latent_dim=LATENTS, image_shape=SHAPE)
    encoder = feature_model(vae)
    data = kvae.data.load((255 * x).astype("uint8"), validation_fraction=0, test_fraction=0)
    with tempfile.TemporaryDirectory() as folder:
        serve = saved_model(vae, Path(folder))
        file = Path(folder) / "features.npz"
        contestants: dict[str, Callable[[], Any]] = {
            name: lambda batch=batch: encoder.predict(x, batch_size=batch, verbose=0)  # type: ignore[misc]
            for name, batch in BATCHES.items()
        }
        contestants["SavedModel, batch 256"] = lambda: serve(x)
        contestants["kvae: extract, means and variances"] = lambda: extract(vae, x, hidden=False)["mean"]
        contestants["kvae: write_features to npz, from uint8"] = lambda: write_features(vae, data, file, hidden=False)
        first, *others = (np.asarray(run()) for name, run in contestants.items() if "write" not in name)
        for other in others:
            np.testing.assert_allclose(other, first, atol=1e-4)
        seconds = interleaved(contestants, rounds)
    print(f"{images:,} images of 28×28, {LATENTS} latents, {rounds} rounds")
    rows = rates(seconds, next(iter(BATCHES)), images, "ratio_to_predict")
    return {"images": images, "rounds": rounds, "rows": rows}


def memory(images: int) -> dict[str, Any]:
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model, array = Path(folder) / "model.keras", Path(folder) / "images.npy"
        kvae.VAE(latent_dim=LATENTS, image_shape=SHAPE).save(model)
        np.save(array, np.random.default_rng(0).integers(0, 256, (10 * images, *SHAPE), np.uint8))
        for way in ("streamed to a file", "held in memory"):
            rows[way] = {}
            for limit in (images, 10 * images):
                command = [sys.executable, "-c", MEMORY, way, str(model), str(array), f"{folder}/f.npz", str(limit)]
                printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                before, after = map(float, printed.split())
                rows[way][str(limit)] = round(after - before, 1)
            print(f"  {way}: MB in addition to the loaded model and images, by number of images: {rows[way]}")
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--memory", type=int, default=6_000, help="n of the memory test")
    options = parser.parse_args()
    store("features_throughput", {"speed": speed(options.images, options.rounds), "megabytes": memory(options.memory)})
