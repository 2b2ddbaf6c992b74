"""Sample quality when one part of a VAE changes, or its networks, with the same data and epochs.

    python benchmarks/quality/remedies.py --data fashion_mnist --epochs 30 --seeds 0 1 2

Requires `TFDS_DATA_DIR` with the dataset. `--data digits --epochs 1 --seeds 0` is a quick check. All models are
compared in the features of the same classifier. Nats of different likelihoods aren't comparable: compare `rate` within
one likelihood. With `--only`, the rows of other names stay in the stored results if the settings are the same:

    python benchmarks/quality/remedies.py --only "prior: flow matching fitted after training"
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras
import numpy as np
from common import RESULTS, extent, store

import kvae
from kvae import evaluation, likelihoods, objectives, priors, recipes
from kvae.training import with_fitted_prior

LATENTS, LEARNING_RATE, CLIP_NORM, COMPONENTS = 16, 1e-3, 200.0, 10
BASELINE = "baseline: Bernoulli, N(0, I), ELBO"
COLUMNS = {
    "frechet_means": "Fréchet, means",
    "frechet_draws": "Fréchet, draws",
    "sharpness_samples": "sharp, samples",
    "sharpness_reconstructions": "sharp, recon.",
    "rate": "rate, nats",
    "seconds": "training, s",
}

Shape = tuple[int, int, int]


def default(**parts: Callable[[], Any]) -> Callable[[Shape], kvae.VAE]:
    """Return a function that makes a VAE of an image shape, with the default networks and these parts."""

    def make(shape: Shape) -> kvae.VAE:
        return kvae.VAE(latent_dim=LATENTS, image_shape=shape, **{name: part() for name, part in parts.items()})

    return make


REMEDIES: dict[str, Callable[[Shape], kvae.VAE]] = {
    BASELINE: default(),
    "likelihood: Normal, scale 0.1": default(likelihood=lambda: likelihoods.Normal(0.1)),
    "likelihood: Normal, learned variance": default(likelihood=lambda: likelihoods.Normal(0.2, learned=True)),
    "likelihood: discretised logistic": default(likelihood=likelihoods.DiscretizedLogistic),
    "prior: mixture": default(prior=lambda: priors.Mixture(components=COMPONENTS)),
    "prior: VampPrior": default(prior=lambda: priors.VampPrior(pseudo_inputs=500)),
    "prior: RealNVP": default(prior=priors.RealNVP),
    "objective: IWAE, K = 5": default(objective=lambda: objectives.IWAE(num_samples=5)),
    "discretised logistic and RealNVP": default(likelihood=likelihoods.DiscretizedLogistic, prior=priors.RealNVP),
    "a hierarchy of latents: ladder": recipes.ladder,
}

#: priors that are fitted to the latents of the baseline after training
FITTED: dict[str, Callable[[np.ndarray], priors.Prior]] = {
    "prior: mixture fitted after training": lambda latents: priors.fit_mixture(latents, components=COMPONENTS),
    "prior: flow matching fitted after training": priors.fit_flow_matching,
}


def train(name: str, data: kvae.data.Data, epochs: int, seed: int) -> tuple[kvae.VAE, float]:
    """Return a trained model, and the seconds of training."""
    keras.utils.set_random_seed(seed)
    vae = REMEDIES[name](data.image_shape)
    vae.seed = seed
    vae.compile(keras.optimizers.Adam(LEARNING_RATE, global_clipnorm=CLIP_NORM))
    started = time.perf_counter()
    vae.fit(data.train, epochs=epochs, verbose=0)
    return vae, time.perf_counter() - started


def score(vae: kvae.VAE, data: kvae.data.Data, classifier: keras.Model, seed: int) -> dict[str, Any]:
    quality = evaluation.sample_quality(vae, data, classifier=classifier, seed=seed)
    rate = evaluation.evaluate(vae, data.arrays("test", limit=quality["n"])[0], num_samples=1)["rate"]
    return {**quality, "rate": rate}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean over the seeds, and the value of each seed."""
    return {
        key: {"mean": statistics.mean(run[key] for run in runs), "runs": [run[key] for run in runs]} for key in COLUMNS
    }


def show(name: str, row: dict[str, Any]) -> None:
    cells = [f"{row[key]['mean']:>16,.3g}" for key in COLUMNS]
    print(f"{''.join(cells)}   {name}   (Fréchet of means {extent(row['frechet_means']['runs'])})", flush=True)


if __name__ == "__main__":
    names = [*REMEDIES, *FITTED]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion_mnist", help="dataset with labels for kvae.data.load")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    options = parser.parse_args()

    data = kvae.data.load(options.data)
    classifier = evaluation.feature_classifier(data)
    print("".join(f"{title:>16}" for title in COLUMNS.values()))
    settings = {"data": options.data, "epochs": options.epochs, "seeds": options.seeds, "latents": LATENTS}
    path = RESULTS / "quality_remedies.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    is_same = all(before.get(key) == value for key, value in settings.items())
    rows: dict[str, Any] = before["rows"] if is_same else {}
    only = [*options.only, *([BASELINE] if {*FITTED} & {*options.only} else [])]
    for name in [name for name in REMEDIES if name in only]:
        runs = []
        fits = [fit for fit in FITTED if name == BASELINE and fit in options.only]
        fitted: dict[str, list[dict[str, Any]]] = {fit: [] for fit in fits}
        for seed in options.seeds:
            vae, seconds = train(name, data, options.epochs, seed)
            runs.append({**score(vae, data, classifier, seed), "seconds": seconds})
            for fit in fits:
                started = time.perf_counter()
                better = with_fitted_prior(vae, data, FITTED[fit], limit=data.num_train)
                total = seconds + time.perf_counter() - started
                fitted[fit].append({**score(better, data, classifier, seed), "seconds": total})
        for title, results in {name: runs, **fitted}.items():
            rows[title] = summary(results)
            show(title, rows[title])
        common = {key: runs[0][key] for key in ("measure", "frechet_floor", "classifier_accuracy", "n")}
        store("quality_remedies", {**settings, **common, "rows": rows})  # after each row: they take minutes
    print(f"floor {common['frechet_floor']:.3g}: {common['measure']}")
