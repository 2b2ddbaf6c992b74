"""The importance-weighted likelihood of a model through its `.tflite` files, and their size.

    TFDS_DATA_DIR=... python benchmarks/likelihood/phone.py runs/likelihood/phone

The file's `score` returns −log w = −log p(x, z)/q(z|x) of one posterior sample if the rate is estimated from the
sample, as with every prior except the normal ones. K seeds give the bound −log 1/K Σ w. LiteRT runs the file, without
TensorFlow. Otherwise, as for a hierarchy of latents, Keras draws the latents and the file of the decoder turns them
into images (`kvae.export.likelihood_through_file`).
"""

import argparse
import math
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from common import store
from scipy.special import logsumexp
from tqdm import trange

import kvae
import kvae.export
from kvae.distributions import closed_form_kl
from kvae.export import runtime


def through_file(path: Path, images: np.ndarray, num_samples: int) -> dict[str, float]:
    """Return the mean −ELBO and NLL in nats, and the standard error of the NLL."""
    model = runtime.load(path)
    losses = [model.score(images, seed=seed)["negative_elbo"] for seed in trange(num_samples, leave=False)]
    log_weights = -np.array(losses, "float64")
    nll = math.log(num_samples) - logsumexp(log_weights, axis=0)
    return {
        "negative_elbo": -log_weights.mean(), "nll": nll.mean(), "nll_error": nll.std(ddof=1) / math.sqrt(len(nll)),
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", default="binarized_mnist")
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--limit", type=int, help="use only the first test images")
    options = parser.parse_args()

    vae, data = kvae.load(options.run / "model.keras"), kvae.data.load(options.data)
    images, _ = data.arrays("test", limit=options.limit)
    has_weights = not (vae.posterior.is_joint or closed_form_kl(vae.posterior, vae.prior))  # in its files
    rows = {}
    if has_weights:
        scores = kvae.evaluation.evaluate(vae, images, options.samples)
        rows["Keras"] = {name: scores[name] for name in ("nll", "nll_error")} | {"negative_elbo": -scores["elbo"]}
    with tempfile.TemporaryDirectory() as folder:
        validation, _ = data.arrays("validation")
        kvae.export.export(vae, Path(folder) / "out", images[:1000], validation=validation[:1000],
                           precisions=("float32", "int8"))  # fmt: skip
        for precision in ("float32", "int8"):
            kind = "vae" if has_weights else "decoder"
            path, started = Path(folder) / "out" / f"{kind}_{precision}.tflite", time.perf_counter()
            if has_weights:
                found = through_file(path, images, options.samples)
            else:
                nats = kvae.export.likelihood_through_file(vae, path, images, num_samples=options.samples)
                rows["Keras"] = {"nll": nats["nll_keras"]}
                found = {"nll": nats["nll_file"], "lost": nats["nats_lost"], "lost_error": nats["nats_lost_error"]}
            rows[path.name] = found | {"bytes": path.stat().st_size, "seconds": time.perf_counter() - started}
    print(f"{data.name}, {len(images):,} test images, K = {options.samples}\n")
    for name, row in rows.items():
        print(f"{name:<24}{'   '.join(f'{key} {value:,.3f}' for key, value in row.items())}")
    name = "phone" if options.run.name == "phone" else f"phone_{options.run.name}"
    store(name, {"run": options.run.name, "num_samples": options.samples, "images": len(images), "rows": rows})
