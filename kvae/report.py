"""The pictures of a training run, and `report.html`: one self-contained page about it."""

import base64
import csv
import datetime
import importlib.resources
import itertools
import json
import math
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from kvae import plotting
from kvae.evaluation.latents import parts_of_the_rate
from kvae.features import direction
from kvae.files import FIGURES_LIST, atomic_file, public_name
from kvae.models.metrics import ACTIVE_VARIANCE
from kvae.steps import Steps

__all__ = ["write_figures", "write_report"]

ENCODE_BATCH = 256
MAPPED = 600  # images that the map of thumbnails chooses from: t-SNE takes two seconds for as many
ANALOGIES = 5  # rows of latent arithmetic
MAX_FILES = 40  # of the list at the end of the page; a folder of TensorBoard logs would fill it otherwise

#: figures in the order of the page: file stem, heading, how to read it
FIGURES = (
    ("learning_curves", "Learning", "Distortion is what it costs to draw the pixels once the latents are known, rate "
     "what it costs to say which latents; ELBO is minus their sum and should rise. Validation images were not trained "
     "on: where their curve turns away from the training curve, the model begins to memorise. (Training values are "
     "means over an epoch, so that early on validation may look better.)"),
    ("reconstructions", "Reconstructions", "Test images above what is left of them after encoder and decoder, without "
     "noise. What is lost here, the latents don't carry."),
    ("samples", "Samples from the prior", "New images: latents drawn from the prior, decoded. No encoder, no data; "
     "this is what the exported decoder does on a phone. Each is the mean of p(x|z), without the noise of single "
     "pixels, and therefore soft."),
    ("class_samples", "The same style, every class", "New images of a conditional model: a row for each class, and the "
     "same latents in every column. What stays along a column is what the latents say beside the class. Each is the "
     "mean of p(x|z, c), without the noise of single pixels, and therefore soft."),
    ("manifold", "The latent manifold", "The two latents across the page: every tile stands for the same prior "
     "probability. Neighbours should be alike, without gaps. (Of a conditional model, that of its first class.)"),
    ("traversals", "One latent at a time", "Each row moves one latent from −3 to 3 standard deviations, all others at "
     "their mean; the most informative first. A row that doesn't change is a latent that is not used. (Of a "
     "conditional model, as its first class.)"),
    ("latent_map", "Where images lie", "Posterior means of test images. Labels, where there are any, colour the "
     "points; only a conditional model saw them in training, and need not say them with its latents."),
    ("thumbnail_map", "A map of the latents", "Test images where t-SNE puts their posterior means: neighbours stay "
     "neighbours, distances between groups say nothing. Frames have the colours of the labels, which only a "
     "conditional model saw in training."),
    ("thumbnail_map_pca", "The same map, by principal components", "Test images on the two directions in which their "
     "posterior means vary most, each stretched to fill the page: a linear map, on which groups overlap that only "
     "other directions keep apart."),
    ("neighbours", "Nearest neighbours", "A test image, and the test images nearest to it in latent space, the closest "
     "first. Where they are of the same kind, the latents say what is in an image."),
    ("direction", "A direction in latent space", "Test images of the first class, moved along the line from its mean "
     "latent to that of the second class: at 0 the reconstruction, at 1 as far as the classes are apart. What changes "
     "is what separates them; what stays is the rest."),
    ("arithmetic", "Latent arithmetic", "What is to c as a is to b? a and b are the test images nearest to the mean "
     "latents of two classes, c is another of b's class: the latents of a less those of b, added to those of c, are "
     "decoded. The result should be of a's class. What else a and b differ in is carried over, too."),
    ("kl_per_dimension", "What each latent carries", "KL of each latent from N(0, 1), mean over test images. Latents "
     "near zero have collapsed: they cost nothing and say nothing. (With another prior the rate is not their sum.)"),
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
    steps: Steps | None = None,
) -> list[Path]:
    """Draw the figures of a run into `run/figures`, each written whole or not at all.

    One that can't be drawn (too few images, a model that has collapsed) doesn't keep the others from being drawn. Its
    reason is in `run/figures/figures.json` and in the report.

    Args:
        run: folder of the run.
        model: a `kvae.VAE`, or a `kvae.Autoencoder`: then there are no samples, and traversals follow the
            spread of `means`.
        images: test images `(N, H, W, C)`.
        labels: `(N,)` or None; the conditions of a conditional model. Below 0 for an image without a label.
        history: columns of the training log.
        label_names: names of the classes.
        means: latents of `images`, `(N, D)`; encoded here if left out.
        kl: KL of each latent, `(D,)`, nats; without it, there is no figure of it.
        steps: says what can't be drawn.

    Returns:
        The paths written.
    """
    conditional = model.condition_dim is not None
    steps = steps or Steps()

    def conditions(start: int, end: int) -> Any:
        return labels[start:end] if conditional and labels is not None else None

    if means is None:
        batches = [(i, i + ENCODE_BATCH) for i in range(0, len(images), ENCODE_BATCH)]
        means = np.concatenate([np.asarray(model.encode_mean(images[i:j], conditions(i, j))) for i, j in batches])
    codes = means
    first = 0 if conditional else None  # class
    spread = codes.var(axis=0)
    generates = hasattr(model, "prior")
    mapped = slice(0, MAPPED)
    frames = None if labels is None else labels[mapped]

    figures: dict[str, Callable[[], Figure]] = {
        "learning_curves": lambda: plotting.learning_curves(history),
        "reconstructions": lambda: plotting.reconstructions(model, images[:16], condition=conditions(0, 16)),
        "latent_map": lambda: plotting.latent_map(codes, labels, label_names),
    }
    if generates and conditional:
        figures["class_samples"] = lambda: plotting.class_samples(model, names=label_names)
    elif generates:
        figures["samples"] = lambda: plotting.samples(model, n=100, seed=0)
    if generates and model.latent_dim == 2:
        figures["manifold"] = lambda: plotting.manifold(model, condition=first)
    else:
        order = np.argsort(-(spread if kl is None else np.asarray(kl)), kind="stable")
        figures["traversals"] = lambda: plotting.traversals(
            model, dimensions=[int(d) for d in order[:8]], kl=kl, latents=None if generates else codes, condition=first
        )
    figures["neighbours"] = lambda: plotting.neighbours(images, codes)
    figures["thumbnail_map"] = lambda: plotting.thumbnail_map(images[mapped], codes[mapped], frames, label_names)
    if model.latent_dim > 1 and np.any(spread > 0):  # else there is nothing to choose directions by
        figures["thumbnail_map_pca"] = lambda: plotting.thumbnail_map(
            images[mapped], codes[mapped], frames, label_names, method="pca"
        )
    if labels is not None and not conditional:
        figures["direction"] = lambda: _direction(model, images, codes, labels)
        figures["arithmetic"] = lambda: _arithmetic(model, images, codes, labels)
    if kl is not None:
        figures["kl_per_dimension"] = lambda: plotting.kl_per_dimension(kl, spread > ACTIVE_VARIANCE)

    paths, failed = [], {}
    for name, draw in figures.items():
        failure = f"Not drawn: {name.replace('_', ' ')}"
        with steps(failure):
            paths.append(plotting.save(draw(), run / "figures" / f"{name}.png"))
        if failure in steps.failed:
            failed[failure] = steps.failed[failure]
    list_figures(run, [path.stem for path in paths], failed)
    return paths


def list_figures(run: Path, drawn: list[str], failed: dict[str, str]) -> None:
    """Write which figures were drawn, and why the others weren't: for the report."""
    with atomic_file(run / FIGURES_LIST) as temporary:
        temporary.write_text(json.dumps({"drawn": drawn, "failed": failed}, indent=2) + "\n", encoding="utf-8")


def _direction(model: Any, images: np.ndarray, means: np.ndarray, labels: np.ndarray) -> Figure:
    """The slider from class 0 to class 1."""
    counts = np.sum(labels == 0), np.sum(labels == 1)
    if 0 in counts:
        raise ValueError(f"Expected images of class 0 and of class 1. Received: {counts[0]} and {counts[1]}")
    along = direction(model, means[labels == 0], means[labels == 1])
    return plotting.direction_slider(model, images[labels == 0][:4], along)


def _arithmetic(model: Any, images: np.ndarray, means: np.ndarray, labels: np.ndarray) -> Figure:
    a, b, c = _analogies(means, labels)
    if not a:
        raise ValueError(
            "Expected images of two classes, two or more of one of them. "
            f"Received: {np.sum(labels >= 0)} of {len(np.unique(labels[labels >= 0]))} classes"
        )
    return plotting.latent_arithmetic(model, images[a], images[b], images[c])


def _analogies(means: np.ndarray, labels: np.ndarray) -> tuple[list[int], list[int], list[int]]:
    """Positions of images a, b and c: b is typical of a class, a of the next one, and c another one of b's class."""
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

    The page needs no network: pictures are part of it. Whatever is missing inside config.json and metrics.json
    is left out of the page.

    Raises:
        ValueError: if one of the files is missing or damaged; the message names it and the command that makes it.
    """
    import jinja2

    run = Path(run)
    config, metrics = _read_json(run / "config.json"), _read_json(run / "metrics.json")
    history = _read_history(run / "history.csv")
    numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    source = importlib.resources.files("kvae").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": _number, "duration": _duration, "size": _size, "date": _date}
    name = run.resolve().name
    likelihood = str((config.get("parts") or config).get("likelihood")).lower()
    html = environment.from_string(source).render(
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
    """A part of a configuration without the folders of this machine."""
    if isinstance(value, dict):
        return {key: _public(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_public(item) for item in value]
    return public_name(value) if isinstance(value, str) else value


def _figures(folder: Path) -> list[dict[str, Any]]:
    """The pictures in the order of the page; those it doesn't know come last."""
    known = {name: (title, text) for name, title, text in FIGURES}
    others = sorted(path.stem for path in folder.glob("*.png") if path.stem not in known)
    figures = []
    for name in (*known, *others):
        path = folder / f"{name}.png"
        if path.is_file():
            content = path.read_bytes()
            width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))  # of the PNG's header
            title, text = known.get(name, (name.replace("_", " ").capitalize(), ""))
            figures.append(
                {"title": title, "text": text, "name": name, "data": base64.b64encode(content).decode(),
                 "width": width, "height": height, "shape": "wide" if width > 1.4 * height else "tall"}
            )  # fmt: skip
    return figures


def _failed(run: Path, metrics: dict[str, Any]) -> dict[str, str]:
    """What could not be done, and why."""
    try:
        figures = _read_json(run / FIGURES_LIST)
    except ValueError:  # an earlier version had none
        figures = {}
    return {**(metrics.get("not_made") or {}), **(figures.get("failed") or {})}


def _commands(name: str, source: str) -> list[tuple[str, str]]:
    """What to do next, as (what it is for, command for a shell in the folder that holds the run)."""
    name = f"./{name}" if name.startswith("-") else name
    run = shlex.quote(name)
    return [
        ("New images", f"kvae generate {run} -n 64 --seed 7 --out grid.png"),
        ("A tighter bound", f"kvae evaluate {run} --samples 500"),
        ("Features for a classifier", f"kvae features {run} {shlex.quote(source)} --out features.npz"),
        ("SavedModel and .tflite files, verified", f"kvae export {run} --out {shlex.quote(f'{name}-export')}"),
        ("These figures again", f"kvae plot {run}"),
    ]


def _files(run: Path) -> list[tuple[str, int]]:
    paths = (path for path in sorted(run.rglob("*")) if path.is_file() and path != run / "report.html")
    return [(path.relative_to(run).as_posix(), path.stat().st_size) for path in paths]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"A report needs {path}, which is missing; `kvae train` makes it") from error
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
        raise ValueError(f"A report needs {path}, which is missing; `kvae train` makes it") from error
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def _kept_epoch(config: dict[str, Any], history: dict[str, list[str]]) -> tuple[int, str] | None:
    """The epoch, counted from 1, whose weights were kept, and why; None if nothing says it."""
    if config.get("kept_epoch"):
        return config["kept_epoch"], str(config.get("kept_because"))
    try:  # a run from before it was written down, whose best epoch has the tightest bound
        bound = [-float(value) for value in history["val_nll" if "val_nll" in history else "val_loss"]]
    except (KeyError, TypeError, ValueError):
        return None
    known = [i for i, value in enumerate(bound) if math.isfinite(value)]
    return (max(known, key=bound.__getitem__) + 1, "the best on validation images") if known else None


def _number(value: Any, digits: int = 1) -> str:
    return f"{value:,.{digits}f}".replace("-", "−") if isinstance(value, int | float) else "–"


def _duration(seconds: float) -> str:
    if not math.isfinite(seconds) or seconds < 60:
        return f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes} min {seconds} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"


def _date(value: Any) -> str:
    try:
        date = datetime.datetime.fromisoformat(str(value))
    except ValueError:
        return str(value)
    return f"{date.day} {date:%B %Y}"
