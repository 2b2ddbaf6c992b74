"""MNIST with few labels: ordinary classifiers and M2 on a VAE's latents (Kingma et al. 2014).

    python benchmarks/features/few_labels.py runs/likelihood/best
    python benchmarks/features/few_labels.py runs/mnist --sizes 100 --draws 2 --epochs 1          # quick check
    python benchmarks/features/few_labels.py runs/likelihood/best --features "VAE, z mean" --m2-sizes

The argument is a run of `kvae train` on mnist or binarized_mnist (which receives thresholded MNIST images). Requires
`TFDS_DATA_DIR` with mnist. The result is the test error in %: mean and range over draws of labels, with the same number
of each digit. The setting is inductive: no test image is used before the end. The VAE has seen the training images
without labels. Label spreading, M2 and co-training (after Blum & Mitchell 1998) also use the latents of these images.
In co-training, the best classifier is fitted again with all latents for which it and label spreading agree on the
label. In every draw and every row, classifiers and their settings are chosen on 1,000 validation images. Controls: raw
pixels, the same number of principal components as latents, and the code of a plain autoencoder with the default
networks. M2 also runs on the components and the code. Label spreading and co-training on raw pixels would take hours.
"""

import argparse
import json
import os
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras
import numpy as np
import tensorflow as tf
from common import RESULTS, store
from labels import draw_labels
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.semi_supervised import LabelSpreading
from sklearn.svm import SVC

import kvae
from kvae import likelihoods, networks
from kvae.features import extract

VALIDATED = 1000  # validation images for the choice of a classifier
SPREAD = 20_000  # unlabelled training images for label spreading
AUTOENCODER_EPOCHS = 5
VAE = "VAE, z mean"
WITH_M2 = (VAE, "autoencoder", "PCA")
FEATURES = (*WITH_M2, "raw pixels")
PUBLISHED = {"M1 + TSVM": (11.82, 5.72, 4.24, 3.49), "M1 + M2": (3.33, 2.59, 2.40, 2.18)}
Sets = dict[str, np.ndarray]


def supervised(dimension: int) -> list[Any]:
    machines = [SVC(C=c, gamma=g / dimension) for c in (1, 10, 100) for g in (0.25, 0.5, 1, 2)]
    return [*machines, *(LogisticRegression(C=c, max_iter=300) for c in (0.01, 0.1, 1.0, 10.0))]


def spreading() -> list[Any]:
    return [LabelSpreading(kernel="knn", n_neighbors=k, alpha=0.2, max_iter=50) for k in (5, 7, 15)]


def co_trained(machine: Any, spread: Any, x: np.ndarray, partly: np.ndarray) -> Any:
    """Fit `machine` again, with the unlabelled rows (−1) of `x` for which it and `spread` give the same label."""
    labels = np.where(partly >= 0, partly, spread.transduction_)
    known = (partly >= 0) | (machine.predict(x) == labels)
    return clone(machine).fit(x[known], labels[known])


def features_of(run: Path, names: list[str]) -> tuple[dict[str, Sets], dict[str, np.ndarray]]:
    """Return the features of the three splits by name, and their labels."""
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    binarize = "threshold" if config["source"] == "binarized_mnist" else config["binarize"]
    data = kvae.data.load("mnist", binarize=binarize)
    model = kvae.load(run / "model.keras")
    images: Sets = {}
    labels: dict[str, np.ndarray] = {}
    for split in ("train", "validation", "test"):
        images[split], labels[split] = data.arrays(split)  # type: ignore[assignment]
    flat = {split: x.reshape(len(x), -1) for split, x in images.items()}

    def vae() -> Sets:
        return {split: extract(model, x, hidden=False)["mean"] for split, x in images.items()}

    def autoencoder() -> Sets:
        keras.utils.set_random_seed(0)
        plain = kvae.Autoencoder(latent_dim=model.latent_dim, image_shape=model.image_shape)
        plain.compile(keras.optimizers.Adam(1e-3))
        plain.fit(images["train"], epochs=AUTOENCODER_EPOCHS, batch_size=128, verbose=0)
        return {split: extract(plain, x, hidden=False)["mean"] for split, x in images.items()}

    def pca() -> Sets:
        fitted = PCA(model.latent_dim, random_state=0).fit(flat["train"])
        return {split: fitted.transform(x) for split, x in flat.items()}

    made = {VAE: vae, "autoencoder": autoencoder, "PCA": pca, "raw pixels": lambda: flat}
    return {name: made[name]() for name in names}, labels


def scaled(sets: Sets) -> Sets:
    """Shift and scale all latents by one factor, so that their proportions stay and dead latents stay small."""
    mean, scale = sets["train"].mean(axis=0), sets["train"].std()
    return {split: (x - mean) / scale for split, x in sets.items()}


def best(fitted: list[Any], sets: Sets, labels: dict[str, np.ndarray]) -> Any:
    """Return the classifier with the best score on the validation images."""
    x, y = sets["validation"][:VALIDATED], labels["validation"][:VALIDATED]
    return max(fitted, key=lambda machine: machine.score(x, y))


def error_of(machine: Any, sets: Sets, labels: dict[str, np.ndarray]) -> tuple[float, str]:
    """Return the test error in %, and the description of the classifier."""
    return 100 * (1 - machine.score(sets["test"], labels["test"])), str(machine)


def m2(sets: Sets, labels: dict[str, np.ndarray], chosen: np.ndarray, seed: int, epochs: int) -> tuple[float, str]:
    """Return the test error of M2 on these features, with the weights of the best epoch in validation."""
    keras.utils.set_random_seed(seed)
    rows = {split: x.reshape(len(x), 1, -1, 1).astype("float32") for split, x in sets.items()}
    shape = rows["train"].shape[1:]
    model = kvae.SemiSupervisedVAE(
        networks.Encoder(50, networks.MLP((500,))),
        networks.Decoder(shape, networks.MLP((500,))),
        likelihood=likelihoods.Normal(0.5, learned=True),
        classifier=networks.Encoder(10, networks.MLP((500,)), param_size=10),
        num_classes=10,
        alpha=10.0,
        bounded=False,
    )
    steps = epochs * len(rows["train"]) // 100
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(1e-3, steps)))
    unlabelled = tf.data.Dataset.from_tensor_slices(rows["train"]).shuffle(50_000, seed=seed).batch(100)
    pairs = tf.data.Dataset.from_tensor_slices((rows["train"][chosen], labels["train"][chosen]))
    labelled = pairs.shuffle(len(chosen), seed=seed).repeat().batch(100)

    def together(x: Any, pair: Any) -> tuple[Any, Any]:
        none = tf.fill(tf.shape(x)[:1], tf.constant(-1, tf.int64))
        return tf.concat([x, pair[0]], 0), tf.concat([none, tf.cast(pair[1], tf.int64)], 0)

    def error(split: str, limit: int | None = None) -> float:
        x, y = rows[split][:limit], labels[split][:limit]
        found = np.concatenate([np.argmax(model.classify(x[i : i + 1000]), -1) for i in range(0, len(x), 1000)])
        return 100 * float(np.mean(found != y))

    best, test_error, chosen_epoch = np.inf, np.inf, 0
    for epoch in range(1, epochs + 1):
        model.fit(tf.data.Dataset.zip(unlabelled, labelled).map(together), verbose=0)
        if (found := error("validation", VALIDATED)) < best:  # keeps the first of equal epochs
            best, test_error, chosen_epoch = found, error("test"), epoch
    return test_error, f"epoch {chosen_epoch}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument(
        "--features", nargs="+", choices=FEATURES, default=FEATURES, help="only the rows of these features"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 600, 1000, 3000])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=6, help="epochs of M2")
    parser.add_argument("--m2-sizes", type=int, nargs="*", default=[100])
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    sets, labels = features_of(options.run, options.features)
    sets = {name: scaled(values) for name, values in sets.items()}
    over = np.random.default_rng(0).choice(len(labels["train"]), SPREAD, replace=False)
    table: dict[str, dict[str, Any]] = {}
    for size in options.sizes:
        for draw in range(options.draws):
            chosen = draw_labels(labels["train"], size, draw)
            y = labels["train"][chosen]
            row: dict[str, tuple[float, str]] = {}
            for name, values in sets.items():
                x = values["train"][chosen]
                machine = best([machine.fit(x, y) for machine in supervised(x.shape[1])], values, labels)
                row[name] = error_of(machine, values, labels)
                if name == "raw pixels":  # takes hours
                    continue
                x = np.concatenate([x, values["train"][over]])
                partly = np.concatenate([y, np.full(SPREAD, -1)])
                spread = [spreader.fit(x, partly) for spreader in spreading()]
                row[f"{name}, label spreading"] = error_of(best(spread, values, labels), values, labels)
                both = [co_trained(machine, spreader, x, partly) for spreader in spread]
                row[f"{name}, co-training"] = error_of(best(both, values, labels), values, labels)
            for name in WITH_M2 if size in options.m2_sizes else ():
                if name in sets:
                    started = time.perf_counter()
                    row[f"{name}, M2"] = m2(sets[name], labels, chosen, draw, options.epochs)
                    print(f"  {name}, M2: {row[f'{name}, M2']}, {time.perf_counter() - started:.0f} s", flush=True)
            for name, (error, what) in row.items():
                entry = table.setdefault(name, {}).setdefault(str(size), {"errors": [], "chosen": []})
                entry["errors"].append(error)
                entry["chosen"].append(what)
        print(f"{size} labels: test error in %, mean and range over {options.draws} draws", flush=True)
        for name, by_size in table.items():
            if str(size) in by_size:
                errors = by_size[str(size)]["errors"]
                print(f"  {name:<30}{statistics.mean(errors):6.2f}   {min(errors):.2f} – {max(errors):.2f}", flush=True)
    if options.draws >= 5:
        stored = RESULTS / "few_labels.json"
        earlier = json.loads(stored.read_text(encoding="utf-8"))["test_error"] if stored.is_file() else {}
        table = {name: earlier.get(name, {}) | table.get(name, {}) for name in {**earlier, **table}}
        config = json.loads((options.run / "config.json").read_text(encoding="utf-8"))
        about = {"recipe": config.get("recipe"), "source": config["source"], "weights": config["weights"]}
        store("few_labels", {"run": about, "draws": options.draws, "published": PUBLISHED, "test_error": table})
