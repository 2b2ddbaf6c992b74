"""What each choice of a hierarchy of latents brings: `ladder` on static MNIST, with one choice left out at a time.

    TFDS_DATA_DIR=... python benchmarks/likelihood/hierarchies.py
    TFDS_DATA_DIR=... python benchmarks/likelihood/hierarchies.py --epochs 1 --limit 100 --samples 5    # quick check

All models are trained for the same number of steps, in bfloat16, with the settings of the recipe. The difference is the
NLL minus that of `ladder`, with the standard error over the test images, which have the same samples. The row with
another seed shows the noise of training.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras
from common import store

import kvae
from kvae import networks, objectives, posteriors, recipes
from kvae.evaluation.likelihood import standard_error
from kvae.evaluation.scoring import score_images
from kvae.training import fit

IMAGE_SHAPE = (28, 28, 1)
LADDER = [(8, 2, 8, 64), (4, 2, 4, 48), (2, 2, 2, 48)]


def model(levels: Any = tuple(LADDER), nats: float = 1.0, block: str = "bottleneck") -> kvae.VAE:
    return kvae.VAE(
        encoder=networks.BottomUp(IMAGE_SHAPE, levels, block=block),
        decoder=networks.TopDown(IMAGE_SHAPE, levels, block=block),
        posterior=posteriors.TopDownNormal(),
        objective=objectives.FreeBits(nats) if nats else objectives.ELBO(),
    )


def changed(**columns: int) -> list[tuple[int, ...]]:
    """Return the levels of `ladder` with other numbers of layers, channels or widths."""
    return [tuple(networks.Level(*row)._replace(**columns)) for row in LADDER]


#: what differs from `ladder`: a model, and settings of training
CHOICES: dict[str, tuple[Callable[[], kvae.VAE], dict[str, Any]]] = {
    "ladder": (model, {}),
    "another seed": (model, {"seed": 1}),
    "without the level of 4×4": (lambda: model(LADDER[1:]), {}),
    "without the level of 14×14": (lambda: model(LADDER[:2]), {}),
    "one layer in each level": (lambda: model(changed(layers=1)), {}),
    "width 32": (lambda: model(changed(width=32)), {}),
    "without free bits": (lambda: model(nats=0.0), {}),
    "without averaged weights": (model, {"ema": 0.0}),
    "blocks of two 3×3 convolutions": (lambda: model(block="plain"), {}),
    "separable blocks": (lambda: model(block="separable"), {}),
}


def measure(name: str, data: kvae.data.Data, options: argparse.Namespace) -> tuple[dict[str, Any], Any]:
    """Train and score a model; return the results, and the NLL of each image."""
    build, settings = CHOICES[name]
    seed, recipe = settings.get("seed", 0), recipes.ladder.settings
    keras.utils.set_random_seed(seed)
    vae = build()
    vae.seed = seed
    settings = {"ema": recipe["ema"], "learning_rate": recipe["learning_rate"], "seed": seed} | settings
    trained = fit(vae, data, options.epochs, verbose=False, **settings)
    rows = score_images(vae, data.split("test", limit=options.limit), options.samples)
    return {
        "weights": vae.count_params(),
        "latents": vae.latent_dim,
        "negative_elbo": round(float((rows["distortion"] + rows["rate"]).mean()), 2),
        "nll": round(float(rows["nll"].mean()), 2),
        "layer_rates": [round(float(rate), 1) for rate in rows["layer_rates"].mean(axis=0)],
        "seconds": round(trained.seconds),
    }, rows["nll"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--samples", type=int, default=100, help="K of the NLL")
    parser.add_argument("--limit", type=int, default=2_000, help="number of test images")
    options = parser.parse_args()
    levels = networks.pyramid(IMAGE_SHAPE, [(2, 8, 64), (2, 4, 48), (2, 2, 48)])
    assert [tuple(level) for level in levels] == LADDER  # those of the recipe
    keras.config.set_dtype_policy("mixed_bfloat16")
    data = kvae.data.load("binarized_mnist", batch_size=recipes.ladder.settings["batch_size"])
    table, base = {}, None
    print(f"{'':<32}{'NLL':>8}{'difference':>18}{'−ELBO':>8}{'weights':>11}{'s':>6}   nats of the layers")
    for name in CHOICES:
        row, nll = measure(name, data, options)
        base = nll if base is None else base
        row |= {"difference": round(float((nll - base).mean()), 2), "error": round(standard_error(nll - base) or 0, 2)}
        table[name] = row
        print(
            f"{name:<32}{row['nll']:>8.2f}{row['difference']:>+10.2f} ± {row['error']:.2f}{row['negative_elbo']:>11.2f}"
            f"{row['weights']:>11,}{row['seconds']:>6}   {' '.join(map(str, row['layer_rates']))}",
            flush=True,
        )
        keras.backend.clear_session()
    if options.epochs >= 4:
        store("hierarchies", {**vars(options), "table": table})
