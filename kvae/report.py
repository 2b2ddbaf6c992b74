"""The figures of a training run, and `report.html`, a self-contained page about it."""

import base64
import csv
import datetime
import itertools
import json
import math
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kvae import pages, plotting
from kvae.evaluation.latents import parts_of_the_rate
from kvae.features import direction
from kvae.features.anomaly import conformal_p_values
from kvae.files import FIGURES_LIST, atomic_file, public_name
from kvae.models.metrics import ACTIVE_VARIANCE
from kvae.run import write_json
from kvae.steps import Steps

__all__ = ["write_figures", "write_report"]

ENCODE_BATCH = 256
MAPPED = 600  # images available to the thumbnail maps; t-SNE takes two seconds for this number
ANALOGIES = 5  # rows of latent arithmetic
MAX_FILES = 40  # files listed at the end of the page; a folder of TensorBoard logs would fill it otherwise

#: figures in the order of the page: file stem, heading, explanation
FIGURES = (
    ("learning_curves", "Learning curves", "The distortion is the cost of the pixels given the latents. The rate is "
     "the cost of the latents. The ELBO is minus their sum and should rise. Validation images are not used for "
     "training: if their curve departs from the training curve, the model begins to memorise. (Training values are "
     "means over an epoch, so validation can look better in the first epochs.)"),
    ("reconstructions", "Reconstructions", "Test images, and below them their reconstructions by encoder and decoder, "
     "without noise. The latents don't carry details that are lost here."),
    ("series_reconstructions", "Reconstructions", "Test windows, and the mean of p(x|z) at the mean of their latents, "
     "with a band of two standard deviations. About 5 % of the values should lie outside the band."),
    ("series_samples", "Samples from the prior", "For latents that are drawn from the prior, the mean of p(x|z) and "
     "one draw from p(x|z). The exported decoder generates the means, without encoder or data."),
    ("series_traversals", "Latent traversals", "Each column moves one latent from −3 to 3 standard deviations and "
     "keeps the others at their mean. The most informative latent comes first. If the lines don't differ, its latent "
     "is unused."),
    ("alarm_history", "Scores and p-values", "−ELBO of the test windows in the order of time, and their conformal "
     "p-values: the share of validation windows with at least this score. On ordinary data, at most a share alpha of "
     "the windows has p ≤ alpha. More alarms mean that something has changed since the validation windows."),
    ("marginals", "Distribution of each column", "Test rows and samples from the model (x ~ p(x|z), z ~ p(z)). Missing "
     "values are left out."),
    ("levels", "What each level represents", "Test images, and below them images that keep the latents of the first "
     "levels, from the top, and draw those of the other levels from the prior. What is the same in a row as above is "
     "what the kept levels represent; the last row are the reconstructions."),
    ("layer_rates", "Rate of each layer", "KL of each stochastic layer from its prior, mean over test images. A layer "
     "near zero is unused."),
    ("samples", "Samples from the prior", "New images, decoded from latents that are drawn from the prior. The "
     "exported decoder generates them in the same way, without encoder or data. Each image is the mean of p(x|z), "
     "without pixel noise, and therefore soft."),
    ("class_samples", "Samples of each class", "New images of a conditional model. Each row is a class; each column "
     "has the same latents. The latents define what a column has in common, such as the style. Each image is the mean "
     "of p(x|z, c), without pixel noise, and therefore soft."),
    ("manifold", "Latent manifold", "Images decoded from a grid of the two latents; every tile covers the same prior "
     "probability. Neighbouring images should be similar, without gaps. (A conditional model is shown for its first "
     "class.)"),
    ("traversals", "Latent traversals", "Each row moves one latent from −3 to 3 standard deviations and keeps the "
     "others at their mean. The most informative latent comes first. If a row doesn't change, its latent is unused. "
     "(A conditional model is shown for its first class.)"),
    ("latent_map", "Latent space", "Posterior means of test images, coloured by label if there are labels. Only a "
     "conditional model receives labels in training; its latents need not contain them."),
    ("thumbnail_map", "Map of the latents (t-SNE)", "Test images, placed by t-SNE of their posterior means. "
     "Neighbours in latent space stay neighbours; distances between groups have no meaning. Frames are coloured by "
     "label. Only a conditional model receives labels in training."),
    ("thumbnail_map_pca", "Map of the latents (principal components)", "Test images, placed by the two principal "
     "components of their posterior means, each scaled to fill the page. The map is linear: groups that differ in "
     "other directions overlap."),
    ("neighbours", "Nearest neighbours", "Test images, each followed by the test images nearest to it in latent "
     "space, the nearest first. If they show the same kind of object, the latents represent the content of an image."),
    ("direction", "Direction between two classes", "Test images of the first class, moved along the line from its "
     "mean latent to the mean latent of the second class. 0 is the reconstruction; 1 is the distance between the "
     "classes. The images change in what separates the classes, and keep the rest."),
    ("arithmetic", "Latent arithmetic", "a is to b as the result is to c. a and b are the test images nearest to the "
     "mean latents of two classes, and c is another image of b's class. The result decodes latents(a) − latents(b) + "
     "latents(c) and should belong to a's class. Other differences between a and b are carried over, too."),
    ("kl_per_dimension", "KL of each latent", "KL of each latent from N(0, 1), mean over test images. Latents near "
     "zero have collapsed: they cost nothing and carry no information. (With another prior, the rate is not the sum "
     "of these values.)"),
)  # fmt: skip


def write_figures(
    run: Path,
    model: Any,
    images: np.ndarray,
    labels: np.ndarray | None,
    history: dict[str, list[float]],
    label_names: Sequence[str] = (),
    means: np.ndarray | None = None,
    kl: np.ndarray | None = None,
    layer_rates: Sequence[float] | None = None,
    steps: Steps | None = None,
    history_of_scores: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
) -> list[Path]:
    """Draw the figures of a run into `run/figures`; each file is written atomically.

    A figure that can't be drawn (too few images, a collapsed model) doesn't affect the others. Its reason is in
    `run/figures/figures.json` and in the report.

    Args:
        run: folder of the run.
        model: a `kvae.VAE`, or a `kvae.Autoencoder`, which has no samples, and whose traversals follow the variance of
            `means`.
        images: test images `(N, H, W, C)`.
        labels: `(N,)` or None; the conditions of a conditional model. Below 0 for an image without a label.
        history: columns of the training log.
        label_names: names of the classes.
        means: latents of `images`, `(N, D)`; None encodes the images.
        kl: KL of each latent, `(D,)`, nats; None omits its figure.
        layer_rates: rate of each layer of a hierarchy, nats; None omits its figure.
        steps: steps that report the figures that can't be drawn.
        history_of_scores: scores of validation windows, scores of test windows in the order of time, and their times;
            for the figure of p-values.

    Returns:
        The paths of the figures.
    """
    conditional, are_images = model.condition_dim is not None, len(model.event_shape) == 3
    steps = steps or Steps()

    def conditions(start: int, end: int) -> Any:
        return labels[start:end] if conditional and labels is not None else None

    if means is None:
        batches = [(i, i + ENCODE_BATCH) for i in range(0, len(images), ENCODE_BATCH)]
        means = np.concatenate([np.asarray(model.encode_mean(images[i:j], conditions(i, j))) for i, j in batches])
    codes = means
    first = 0 if conditional else None  # class
    variances = codes.var(axis=0)
    generates = hasattr(model, "prior")
    mapped = slice(0, MAPPED)
    frames = None if labels is None else labels[mapped]

    figures: dict[str, Callable[[], Figure]] = {
        "learning_curves": lambda: plotting.learning_curves(history),
        "latent_map": lambda: plotting.latent_map(codes, labels, label_names),
    }
    order = np.argsort(-(variances if kl is None else np.asarray(kl)), kind="stable")
    latents = None if generates else codes

    def traversals() -> Figure:
        return plotting.traversals(model, dimensions=order[:8].tolist(), kl=kl, latents=latents, condition=first)

    if len(model.event_shape) == 2:
        shown = conditions(0, 16)
        figures["series_reconstructions"] = lambda: plotting.series_reconstructions(model, images[:16], condition=shown)
        if generates:
            figures["series_samples"] = lambda: plotting.series_samples(model, condition=first)
        figures["series_traversals"] = traversals
    elif len(model.event_shape) == 1 and generates and not conditional:
        figures["marginals"] = lambda: plotting.marginals(model, images)
    elif are_images:
        figures["reconstructions"] = lambda: plotting.reconstructions(model, images[:16], condition=conditions(0, 16))
        if generates and conditional:
            figures["class_samples"] = lambda: plotting.class_samples(model, names=label_names)
        elif generates:
            figures["samples"] = lambda: plotting.samples(model, n=100, seed=0)
        if generates and model.latent_dim == 2:
            figures["manifold"] = lambda: plotting.manifold(model, condition=first)
        else:
            figures["traversals"] = traversals
        figures["neighbours"] = lambda: plotting.neighbours(images, codes)
        figures["thumbnail_map"] = lambda: plotting.thumbnail_map(images[mapped], codes[mapped], frames, label_names)
        if model.latent_dim > 1 and np.any(variances > 0):  # otherwise there are no principal components
            figures["thumbnail_map_pca"] = lambda: plotting.thumbnail_map(
                images[mapped], codes[mapped], frames, label_names, method="pca"
            )
        if labels is not None and not conditional:
            figures["direction"] = lambda: _direction(model, images, codes, labels)
            figures["arithmetic"] = lambda: _arithmetic(model, images, codes, labels)
    if hasattr(model.decoder, "levels"):
        if not conditional:
            figures["levels"] = lambda: plotting.levels(model, images)
        if layer_rates is not None:
            grids = [f"{height}×{width}" for height, width in model.decoder.level_grids]
            levels = [(grid, level.layers) for grid, level in zip(grids, model.decoder.levels)]
            figures["layer_rates"] = lambda: plotting.layer_rates(layer_rates, levels)
    if kl is not None:
        figures["kl_per_dimension"] = lambda: plotting.kl_per_dimension(kl, variances > ACTIVE_VARIANCE)
    if history_of_scores is not None:
        figures["alarm_history"] = lambda: _alarms(*history_of_scores)

    paths, failed = [], {}
    for name, draw in figures.items():
        failure = f"Not drawn: {name.replace('_', ' ')}"
        with steps(failure):
            paths.append(plotting.save(draw(), run / "figures" / f"{name}.png"))
        if failure in steps.failed:
            failed[failure] = steps.failed[failure]
    list_figures(run, [path.stem for path in paths], failed)
    return paths


def _alarms(known: np.ndarray, scores: np.ndarray, times: np.ndarray) -> Figure:
    """Draw scores and conformal p-values, calibrated with `known` scores."""
    return plotting.alarm_history(
        scores, conformal_p_values(np.sort(known), scores), max(0.01, 1 / (1 + len(known))), times
    )


def list_figures(run: Path, drawn: list[str], failed: dict[str, str]) -> None:
    """Write the list of figures that were drawn, and the reasons of those that failed, for the report."""
    write_json(run / FIGURES_LIST, {"drawn": drawn, "failed": failed})


def _direction(model: Any, images: np.ndarray, means: np.ndarray, labels: np.ndarray) -> Figure:
    """Draw the slider from class 0 to class 1."""
    counts = np.sum(labels == 0), np.sum(labels == 1)
    if 0 in counts:
        raise ValueError(f"Expected images of class 0 and of class 1. Received: {counts[0]} and {counts[1]}")
    along = direction(model, means[labels == 0], means[labels == 1])
    return plotting.direction_slider(model, images[labels == 0][:4], along)


def _arithmetic(model: Any, images: np.ndarray, means: np.ndarray, labels: np.ndarray) -> Figure:
    a, b, c = _analogies(means, labels)
    if not a:
        raise ValueError(
            "Expected images of two classes, with two or more images of one class. "
            f"Received: {np.sum(labels >= 0)} of {len(np.unique(labels[labels >= 0]))} classes"
        )
    return plotting.latent_arithmetic(model, images[a], images[b], images[c])


def _analogies(means: np.ndarray, labels: np.ndarray) -> tuple[list[int], list[int], list[int]]:
    """Return positions of images a, b and c: a and b are typical of two classes, c is another image of b's class."""
    by_class = []
    for label in np.unique(labels[labels >= 0]):
        own = np.flatnonzero(labels == label)
        typical = own[np.square(means[own] - means[own].mean(axis=0)).sum(axis=1).argmin()]
        by_class.append([int(typical), *own[own != typical].tolist()])
    pairs = itertools.pairwise([*by_class, *by_class[:1]]) if len(by_class) > 1 else ()
    triples = [(after[0], *own[:2]) for own, after in pairs if len(own) > 1][:ANALOGIES]
    a, b, c = ([triple[i] for triple in triples] for i in range(3))
    return a, b, c


def write_report(run: Path) -> Path:
    """Render `run/report.html` from the run's config.json, metrics.json, history.csv and figures.

    The page is self-contained and needs no network. Entries that are missing from config.json and metrics.json are
    left out.

    Raises:
        ValueError: if a file is missing or damaged; the message names it and the command that writes it.
    """
    run = Path(run)
    config, metrics = _read_json(run / "config.json"), _read_json(run / "metrics.json")
    history = _read_history(run / "history.csv")
    numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    name = run.resolve().name
    likelihood = str((config.get("parts") or config).get("likelihood")).lower()
    html = pages.render(
        "kvae",
        "report.html.jinja",
        {"duration": _duration, "date": _date},
        run=name,
        title=public_name(config.get("name") or config.get("source") or name),
        config=_public(config),
        metrics=metrics,
        numbers=numbers,
        probe=[row for row in metrics.get("probe") or [] if isinstance(row, dict)],
        failed=_failed(run, metrics),
        parts=parts_of_the_rate(numbers) if {"mutual_information", "marginal_kl", "log_n"} <= numbers.keys() else None,
        density=metrics.get("support") in ("real", "unit") or "normal" in likelihood or numbers.get("elbo", 0) > 0,
        bernoulli=likelihood == "bernoulli",
        epochs=len(next(iter(history.values()), [])),
        kept=_kept_epoch(config, history),
        figures=_figures(run / "figures"),
        commands=_commands(name, public_name(config.get("source") or "SOURCE", before="path/to/")),
        files=_files(run),
        max_files=MAX_FILES,
    )
    with atomic_file(run / "report.html") as temporary:
        temporary.write_text(html, encoding="utf-8")
    return run / "report.html"


def _public(value: Any) -> Any:
    """Return a part of a configuration without the folders of this machine."""
    if isinstance(value, dict):
        return {key: _public(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_public(item) for item in value]
    return public_name(value) if isinstance(value, str) else value


def _figures(folder: Path) -> list[dict[str, Any]]:
    """Return the figures in the order of the page; unknown ones come last."""
    known = {name: (title, text) for name, title, text in FIGURES}
    unknown = sorted(path.stem for path in folder.glob("*.png") if path.stem not in known)
    figures = []
    for name in (*known, *unknown):
        path = folder / f"{name}.png"
        if path.is_file():
            content = path.read_bytes()
            width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))  # from the PNG header
            title, text = known.get(name, (name.replace("_", " ").capitalize(), ""))
            figures.append(
                {"title": title, "text": text, "name": name, "data": base64.b64encode(content).decode(),
                 "width": width, "height": height, "shape": "wide" if width > 1.4 * height else "tall"}
            )  # fmt: skip
    return figures


def _failed(run: Path, metrics: dict[str, Any]) -> dict[str, str]:
    """Return the failures of a run, with their reasons."""
    try:
        figures = _read_json(run / FIGURES_LIST)
    except ValueError:  # older runs have no list
        figures = {}
    return {**(metrics.get("not_made") or {}), **(figures.get("failed") or {})}


def _commands(name: str, source: str) -> list[tuple[str, str]]:
    """Return the next commands, as (purpose, command for a shell in the folder that holds the run)."""
    name = f"./{name}" if name.startswith("-") else name
    run = shlex.quote(name)
    return [
        ("Generate images", f"kvae generate {run} -n 64 --seed 7 --out grid.png"),
        ("Compute a tighter bound", f"kvae evaluate {run} --samples 500"),
        ("Extract features for a classifier", f"kvae features {run} {shlex.quote(source)} --out features.npz"),
        ("Export verified SavedModel and .tflite files", f"kvae export {run} --out {shlex.quote(f'{name}-export')}"),
        ("Redraw these figures", f"kvae plot {run}"),
    ]


def _files(run: Path) -> list[tuple[str, int]]:
    paths = (path for path in sorted(run.rglob("*")) if path.is_file() and path != run / "report.html")
    return [(path.relative_to(run).as_posix(), path.stat().st_size) for path in paths]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"Expected {path}, which `kvae train` writes. Received: no such file") from error
    except ValueError as error:
        raise ValueError(f"Expected JSON, as `kvae train` writes it. Received: {path} ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"Expected a JSON object, as `kvae train` writes it. Received: {path}")
    return content


def _read_history(path: Path) -> dict[str, list[str]]:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise ValueError(f"Expected {path}, which `kvae train` writes. Received: no such file") from error
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def _kept_epoch(config: dict[str, Any], history: dict[str, list[str]]) -> tuple[int, str] | None:
    """Return the epoch whose weights were kept, counted from 1, and the reason; None if it is unknown."""
    if config.get("kept_epoch"):
        return config["kept_epoch"], str(config.get("kept_because"))
    try:  # an older run without this entry kept the epoch with the tightest bound
        bound = [-float(value) for value in history["val_nll" if "val_nll" in history else "val_loss"]]
    except (KeyError, TypeError, ValueError):
        return None
    known = [i for i, value in enumerate(bound) if math.isfinite(value)]
    return (max(known, key=bound.__getitem__) + 1, "the best on validation images") if known else None


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds) or seconds < 60:
        return f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _date(value: Any) -> str:
    try:
        date = datetime.datetime.fromisoformat(str(value))
    except ValueError:
        return str(value)
    return f"{date.day} {date:%B %Y}"
