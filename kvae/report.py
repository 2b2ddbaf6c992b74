"""The pictures of a training run, and `report.html`: one self-contained page about it."""

import base64
import csv
import importlib.resources
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kvae import plotting
from kvae.files import atomic_file

#: figures in the order of the page: file stem, heading, how to read it
FIGURES = (
    ("learning_curves", "Learning", "Distortion is what it costs to draw the pixels once the latents are known, rate "
     "what it costs to say which latents; ELBO is minus their sum and should rise. Validation images were not trained "
     "on: where their curve turns away from the training curve, the model begins to memorise."),
    ("reconstructions", "Reconstructions", "Test images above what is left of them after encoder and decoder, without "
     "noise. What is lost here, the latents don't carry."),
    ("samples", "Samples from the prior", "New images: latents drawn from the standard normal, decoded. No encoder, no "
     "data; this is what the exported decoder does on a phone."),
    ("manifold", "The latent manifold", "The two latents across the page: every tile stands for the same prior "
     "probability. Neighbours should be alike, without gaps."),
    ("traversals", "One latent at a time", "Each row moves one latent from −3 to 3 standard deviations, all others at "
     "their mean; the most informative first. A row that doesn't change is a latent that is not used."),
    ("latent_map", "Where images lie", "Posterior means of test images. Labels, where there are any, only colour the "
     "points: training never saw them."),
    ("kl_per_dimension", "What each latent carries", "KL of each latent from the prior, mean over test images. Latents "
     "near zero have collapsed: they cost nothing and say nothing."),
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
) -> list[Path]:
    """Draw the figures of a VAE's run into `run/figures`, each written whole or not at all.

    Args:
        run: folder of the run.
        model: a `kvae.VAE`.
        images: test images `(N, H, W, C)`.
        labels: `(N,)` or None.
        history: columns of the training log.
        label_names: names of the classes.
        means: posterior means of `images`, `(N, D)`; encoded here if left out.
        kl: KL of each latent, `(D,)`, nats.

    Returns:
        The paths written.
    """
    if means is None:
        means = np.asarray(model.encode(images).mean)
    figures = {
        "learning_curves": plotting.learning_curves(history),
        "reconstructions": plotting.reconstructions(model, images[:16]),
        "samples": plotting.samples(model, n=100, seed=0),
        "latent_map": plotting.latent_map(means, labels, label_names),
    }
    if model.latent_dim == 2:
        figures["manifold"] = plotting.manifold(model)
    else:
        figures["traversals"] = plotting.traversals(model, kl=kl)
    if kl is not None:
        figures["kl_per_dimension"] = plotting.kl_per_dimension(kl, means.var(axis=0) > 0.01)
    return [plotting.save(figure, run / "figures" / f"{name}.png") for name, figure in figures.items()]


def write_report(run: Path) -> Path:
    """Render `run/report.html` from the run's config.json, metrics.json, history.csv and figures.

    The page needs no network: pictures are part of it.

    Raises:
        ValueError: if one of the files is missing or damaged; the message names it and the command that makes it.
    """
    import jinja2

    run = Path(run)
    config, metrics = _read_json(run / "config.json", "kvae train"), _read_json(run / "metrics.json", "kvae train")
    epochs = _rows(run / "history.csv")
    figures = [
        {"title": title, "text": text, "name": name, "data": base64.b64encode(path.read_bytes()).decode()}
        for name, title, text in FIGURES
        if (path := run / "figures" / f"{name}.png").is_file()
    ]
    source = importlib.resources.files("kvae").joinpath("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    environment.filters["number"] = _number
    files = [
        {"name": str(path.relative_to(run)), "kilobytes": path.stat().st_size / 1000}
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name != "report.html"
    ]
    html = environment.from_string(source).render(
        run=run.name,
        config=config,
        metrics=metrics,
        epochs=epochs,
        figures=figures,
        files=files,
        density=str(config.get("likelihood")).startswith("normal"),
    )
    with atomic_file(run / "report.html") as temporary:
        temporary.write_text(html, encoding="utf-8")
    return run / "report.html"


def _read_json(path: Path, command: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"A report needs {path}, which is missing; `{command}` makes it") from error
    except ValueError as error:
        raise ValueError(f"Expected JSON, as `{command}` writes it. Received: {path} ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"Expected a JSON object, as `{command}` writes it. Received: {path}")
    return content


def _rows(path: Path) -> int:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return len(list(csv.DictReader(file)))
    except FileNotFoundError as error:
        raise ValueError(f"A report needs {path}, which is missing; `kvae train` makes it") from error


def _number(value: Any, digits: int = 1) -> str:
    return f"{value:,.{digits}f}" if isinstance(value, int | float) else "–"
