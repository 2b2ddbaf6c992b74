"""Learning curves of classifiers that start from a VAE's encoder, from 100 labels to 10,000.

    python benchmarks/features/finetuning.py                       # mnist, fashion_mnist, cifar10_small
    python benchmarks/features/finetuning.py mnist --sizes 100 1000 --draws 2 --steps 50 --epochs 1      # quick check

Requires `TFDS_DATA_DIR`. The VAE is trained on all training images, without labels. Then the same network is trained on
the labelled images. It starts from the VAE's weights (only the head is trained; all layers are trained, the encoder
with a tenth of the learning rate; all layers are trained with the same rate) or from random weights. Every draw of
labels has the same number of each class. The controls are linear classifiers on raw pixels, on the same number of
principal components as latents, and on the code of a plain autoencoder with the same networks. The number of training
steps is the same for all. Each contestant keeps the weights with the best result on 1,000 validation images.
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
from common import RESULTS, store
from labels import draw_labels
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression

import kvae
from kvae.features import classifier

STORED = RESULTS / "finetuning.json"
SETS = ("mnist", "fashion_mnist", "cifar10_small")
LATENTS, BATCH, RATE, VALIDATED = 32, 64, 1e-3, 1000
C_GRID = (0.01, 0.1, 1.0, 10.0)


def parts(name: str) -> dict[str, Any]:
    return {"likelihood": kvae.likelihoods.Normal(0.1)} if name == "cifar10_small" else {}


def pretrained(model: Callable[..., Any], data: kvae.data.Data, epochs: int) -> Any:
    keras.utils.set_random_seed(0)
    made = model(latent_dim=LATENTS, image_shape=data.image_shape, **parts(data.name))
    made.compile(keras.optimizers.Adam(1e-3, global_clipnorm=200.0))
    made.fit(data.train, epochs=epochs, verbose=0)
    return made


def network(vae: kvae.VAE, fresh: kvae.VAE, classes: int) -> dict[str, Callable[[], keras.Model]]:
    return {
        "VAE, head alone": lambda: classifier(vae, classes, "head"),
        "VAE, encoder at 0.1": lambda: classifier(vae, classes, "all", 0.1),
        "VAE, all alike": lambda: classifier(vae, classes, "all", 1.0),
        "random": lambda: classifier(fresh, classes, "all", 1.0),
    }


def accuracy_of(net: keras.Model, train: Any, validation: Any, test: Any, steps: int, seed: int) -> float:
    """Return the test accuracy of the weights with the best result on the validation images."""
    keras.utils.set_random_seed(seed)
    net.compile(keras.optimizers.Adam(RATE), "sparse_categorical_crossentropy", metrics=["accuracy"])
    passes = max(1, round(steps * BATCH / len(train[0])))
    pieces = min(10, passes)
    best = keras.callbacks.EarlyStopping("val_accuracy", patience=pieces, mode="max", restore_best_weights=True)
    repeated = [np.concatenate([part] * (passes // pieces)) for part in train]
    net.fit(*repeated, batch_size=BATCH, epochs=pieces, validation_data=validation, callbacks=[best], verbose=0)
    return float(net.evaluate(*test, batch_size=500, verbose=0, return_dict=True)["accuracy"])


def linear(train: Any, validation: Any, test: Any) -> float:
    fits = [LogisticRegression(C=c, max_iter=300).fit(*train) for c in C_GRID]
    return float(max(fits, key=lambda fit: fit.score(*validation)).score(*test))


def curves(name: str, sizes: list[int], draws: int, steps: int, epochs: int) -> dict[str, Any]:
    data = kvae.data.load(name)
    (x, y), test = data.arrays("train"), data.arrays("test")
    validation = data.arrays("validation", VALIDATED)
    started = time.perf_counter()
    vae = pretrained(kvae.VAE, data, epochs)
    autoencoder = pretrained(kvae.Autoencoder, data, epochs)
    seconds = time.perf_counter() - started
    pca = PCA(LATENTS, random_state=0).fit(x.reshape(len(x), -1)[:10_000])

    def codes(images: np.ndarray) -> np.ndarray:
        batches = range(0, len(images), 500)
        return np.concatenate([np.asarray(autoencoder.encode(images[i : i + 500]).mean) for i in batches])

    controls: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "raw pixels, linear": lambda images: images.reshape(len(images), -1),
        "PCA, linear": lambda images: pca.transform(images.reshape(len(images), -1)),
        "autoencoder, linear": codes,
    }
    of_validation = {key: (control(validation[0]), validation[1]) for key, control in controls.items()}
    of_test = {key: (control(test[0]), test[1]) for key, control in controls.items()}
    table: dict[str, dict[str, list[float]]] = {}
    for size in sizes:
        for draw in range(draws):
            chosen = draw_labels(y, size, draw)
            train = x[chosen], y[chosen]
            keras.utils.set_random_seed(100 + draw)
            fresh = kvae.VAE(latent_dim=LATENTS, image_shape=data.image_shape, **parts(name))
            row = {
                method: accuracy_of(make(), train, validation, test, steps, draw)
                for method, make in network(vae, fresh, data.num_classes).items()
            }
            for key, control in controls.items():
                row[key] = linear((control(train[0]), train[1]), of_validation[key], of_test[key])
            for method, accuracy in row.items():
                table.setdefault(method, {}).setdefault(str(size), []).append(accuracy)
            keras.backend.clear_session()
        print(f"{name}, {size} labels: test error in %, mean and range over {draws} draws", flush=True)
        for method, by_size in table.items():
            errors = [100 * (1 - accuracy) for accuracy in by_size[str(size)]]
            print(f"  {method:<22}{statistics.mean(errors):6.2f}   {min(errors):.2f} – {max(errors):.2f}", flush=True)
    return {"accuracy": table, "pretraining_seconds": round(seconds), "epochs": epochs, "steps": steps, "draws": draws}


def draw_figure(results: dict[str, Any], path: Path) -> None:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullLocator

    sets = [name for name in SETS if name in results]
    figure, axes = plt.subplots(1, len(sets), figsize=(4.2 * len(sets), 3.6), squeeze=False)
    for axis, name in zip(axes[0], sets, strict=True):
        for method, by_size in results[name]["accuracy"].items():
            sizes = [int(size) for size in by_size]
            errors = np.array([[100 * (1 - value) for value in values] for values in by_size.values()])
            style = ":" if "linear" in method else "-"
            (line,) = axis.plot(sizes, errors.mean(axis=1), style, marker="o", markersize=3, label=method)
            axis.fill_between(sizes, errors.min(axis=1), errors.max(axis=1), color=line.get_color(), alpha=0.12, lw=0)
        axis.set(xscale="log", yscale="log", title=name, xlabel="labels")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8)))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.yaxis.set_major_formatter("{x:g}")
        axis.tick_params(which="both", labelsize=8)
        axis.grid(alpha=0.25, which="both", lw=0.5)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("test error, %")
    axes[0][-1].legend(fontsize=7.5, frameon=False, loc="lower left")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    print(f"Wrote {path}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", help=f"any of {', '.join(SETS)} (default: all)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 300, 1000, 3000, 10_000])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=10, help="epochs of the VAE")
    parser.add_argument("--out", type=Path, help="only draw the stored results into this PNG file")
    options = parser.parse_args()
    results: dict[str, Any] = json.loads(STORED.read_text(encoding="utf-8")) if STORED.is_file() else {}
    if options.out:
        draw_figure(results, options.out)
        raise SystemExit
    for name in options.sets or SETS:
        results[name] = curves(name, options.sizes, options.draws, options.steps, options.epochs)
        if options.steps >= 500:
            store(STORED.stem, results)
