"""The report as a page, `export.html`: which file to use, its losses, its speed and memory, and how to run it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np

from kvae import pages
from kvae.export.choice import SLOWER, Budgets
from kvae.export.report.pictures import Pictures, groups
from kvae.pages import UNKNOWN, number, significant

TEMPLATE = "export.html.jinja"
ENOUGH = Budgets()  # a file that loses less is good enough, as for precisions="auto"; agreement stands for accuracy
ENOUGH_DB = 10.0  # the same without nats: the file's squared error is a tenth of the model's own
SHARES = (0.05, 0.5, 0.9, 0.95, 0.99)  # shares of images in the table of scores
CURVE = (440, 170)  # width and height of the curve of scores
WEIGHTS = {
    "float32": "32-bit floats",
    "float16": "weights in 16 bits, computed in 32",
    "int8": "weights in 8 bits, activations quantised on the fly",
    "full_int8": "weights and activations in 8 bits, with calibrated ranges",
    "integer": "everything in 8 bits, including inputs and outputs",
}
PURPOSES = {
    "decoder": "Latents in, images out",
    "encoder": "Images in, latents out",
    "classifier": "Images in, classes out",
}

Cell = Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class _Column:
    """A column of a table with one row per file: heading, meaning, value of a file, and value as text."""

    heading: str
    meaning: str
    value: Cell
    text: Callable[[Any], str]

    def cell(self, file: dict[str, Any]) -> str:
        """Return the value of a file as text."""
        value = self.value(file)
        return UNKNOWN if value is None else self.text(value)


def render(report: dict[str, Any], pictures: list[Pictures]) -> str:
    """Return the text of `export.html`: one page that contains its images and needs no network.

    Args:
        report: contents of `report.json`. Values that are None or missing are left out of the page.
        pictures: images of Keras, then of each file, from the same images and the same latents.
    """
    model, files = report["model"], [_file(artifact) for artifact in report["artifacts"]]
    litert = [file for file in files if file["format"] == "litert"]
    whole = _full_files(files)
    pick, choice = _pick(whole), report.get("choice") or {}
    refused = [f"{name} was left out. {reason}" for name, reason in (report.get("refused") or {}).items()]
    formatters: dict[str, Callable[..., Any]] = {
        "error": _error, "time": _time, "nats": _nats, "percent": _percent, "sides": _tensor_lines, "loss": _loss,
        "share": _share, "points": _points, "literal": repr,
    }  # fmt: skip
    return pages.render(
        "kvae.export.report",
        TEMPLATE,
        formatters,
        report=report,
        model=model,
        kind={"vae": "VAE"}.get(model["kind"], model["kind"]),
        call="decode" if "decode" in model["signatures"] else next(iter(model["signatures"]), "decode"),
        shape="×".join(map(str, model["event_shape"])),
        verification=report.get("verification") or {},
        warnings=[*refused, *(report.get("warnings") or [])],
        packages=report.get("packages") or {},
        files=files,
        litert=litert,
        precisions=len({file["precision"] for file in litert}),
        pick=pick,
        golden=PurePath(pick["path"]).with_suffix(".golden.json") if pick else None,
        image_time=_image_time(pick) if pick else None,
        # The suggested file is the first, folders are the last.
        advice=[
            (file, _advice(file, pick, whole))
            for file in sorted(files, key=lambda file: (file is not pick, file["format"] != "litert"))
            if pick
        ],
        wins=_best_files(whole) if len(whole) > 1 else [],
        weights=WEIGHTS,
        budgets=_in_words(choice.get("budgets") or {}),
        losses=[
            (path, _in_words(losses), (choice.get("latency_us") or {}).get(path))
            for path, losses in (choice.get("lost") or {}).items()
        ],
        slower=SLOWER,
        quality=_table(_quality(report), files),
        cost=_table(_cost(report), [file for file in files if "cold_start_ms" in file["behaviour"]]),
        largest=max((file["bytes"] for file in files), default=1),
        endpoints=list(dict.fromkeys(name for file in files for name in file["signatures"])),
        psnr_data=next((x for f in files if (x := f["behaviour"].get("psnr_data")) is not None), None),
        pictures=groups(pictures),
        scores=_scores(model.get("score")),
        dash=UNKNOWN,
    )


def _file(artifact: dict[str, Any]) -> dict[str, Any]:
    """Return an artifact with its behaviour, and the share of the budget that each signature's worst output uses."""
    used = {
        name: max((_used(output) for output in signature["outputs"].values()), default=0.0)
        for name, signature in artifact["signatures"].items()
    }
    return {**artifact, "behaviour": artifact.get("behaviour") or {}, "used": used}


def _used(output: dict[str, Any]) -> float:
    """Return the error as a share of the allowed error; 0 if no error is allowed, because the bits must be equal."""
    errors = ((output[f"{which}_abs_error"], output["budget"][which]) for which in ("max", "mean"))
    return max(error / allowed if allowed else 0.0 for error, allowed in errors)


def suggested_file(report: dict[str, Any]) -> str | None:
    """Return the path of the full LiteRT file that the page suggests; None without such files."""
    pick = _pick(_full_files([_file(artifact) for artifact in report["artifacts"]]))
    return None if pick is None else pick["path"]


def _full_files(files: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the LiteRT files of the whole model; if there are none, those of single networks."""
    litert = [file for file in files if file["format"] == "litert"]
    return [file for file in litert if not file.get("network")] or litert


def _pick(litert: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the smallest file that is good enough; the best file if none is; the smallest if losses are unknown."""
    if not litert:
        return None
    excess = {file["path"]: _excess(file) for file in litert}
    good = [file for file in litert if (excess[file["path"]] or 0) <= 0]
    return min(good, key=lambda file: file["bytes"]) if good else min(litert, key=lambda f: excess[f["path"]] or 0)


def _excess(file: dict[str, Any]) -> float | None:
    """Return how far the loss exceeds the accepted loss, relative to it or in dB; None if unknown."""
    losses = _losses(file)
    if losses:
        return max(loss / ENOUGH.by_loss[name] - 1 for name, loss in losses.items())
    psnr, psnr_data = (file["behaviour"].get(name) for name in ("psnr", "psnr_data"))
    return None if psnr is None or psnr_data is None else psnr_data + ENOUGH_DB - psnr


def _losses(file: dict[str, Any]) -> dict[str, float]:
    """Return the known losses of a file. Without labels, the lost accuracy is an upper bound; a gain is chance: 0."""
    nats, lost, agreement = (file["behaviour"].get(name) for name in ("nats_lost", "accuracy_lost", "agreement"))
    if lost is None and agreement is not None:
        lost = 1 - agreement
    losses = {"nats_lost": nats, "accuracy_lost": None if lost is None else max(0.0, lost)}
    return {name: loss for name, loss in losses.items() if loss is not None}


def _in_words(losses: dict[str, float]) -> str:
    words = {"nats_lost": _loss, "accuracy_lost": _points_lost}
    return " and ".join(words[name](loss) for name, loss in losses.items())


def _advice(file: dict[str, Any], pick: dict[str, Any], litert: list[dict[str, Any]]) -> str:
    """Return a sentence on when to use a file."""
    if file["format"] == "saved_model":
        return "For a server with TensorFlow. It is the baseline of this page and equals Keras except for rounding."
    if file["format"] != "litert":
        return "For onnxruntime: one file per signature, any batch size."
    losses, excess = _losses(file), _excess(file)
    lost = _in_words(losses)
    if file.get("network") and file is not pick:
        use = ": one signature, for apps that call an interpreter"
        if file["precision"] == "integer":
            use = ", integers only. For NPUs and other processors without floats"
        return f"{PURPOSES[file['network']]}{use}. Requires TensorFlow Lite {file['oldest_runtime']} or newer."
    if file is pick:
        if len(litert) == 1:
            return "The LiteRT file of this export."
        if excess is None:
            return "The smallest file. Its loss is unknown, because the export had no images to measure it."
        if excess > 0:
            look = "its errors" if file["behaviour"].get("psnr") is None else "the images"
            return f"The smallest loss, but larger than recommended: check {look} before you use this file."
        rule = "whose error is small compared with the model’s own"
        if losses:
            limits = {"nats_lost": f"{ENOUGH.nats} nats", "accuracy_lost": _points_lost(ENOUGH.accuracy)}
            rule = f"that loses less than {' and '.join(limits[name] for name in losses)}"
        return f"Recommended: the smallest file {rule}."
    better = next((other for other in litert if other is not file and _dominates(other, file)), None)
    if better:
        return f"Larger than {better['path']} and further from Keras."
    ratio = file["bytes"] / pick["bytes"]
    if ratio < 1:
        return f"Smaller, but loses {lost}." if lost else "Smaller, but less exact."
    more = f"{significant(ratio, 2)}× the size"
    if lost:
        of_pick = _in_words(_losses(pick))
        return f"{more}; same loss." if lost == of_pick else f"{more}; loses {lost} instead of {of_pick}."
    return f"{more}{', and closer to Keras' if excess is not None else ''}."


def _best_files(files: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the best file by size, by loss and by speed.

    The smallest file may be slower, for example with transposed convolutions in eight bits.
    """
    measures: dict[str, Cell] = {
        "smallest": lambda file: file["bytes"],
        "closest to Keras": _excess,
        "fastest for one image on one thread": lambda file: _latency(file, "decode_1") or _latency(file, "classify_1"),
    }
    known = {what: [file for file in files if measure(file) is not None] for what, measure in measures.items()}
    return [(what, min(found, key=measures[what])["path"]) for what, found in known.items() if found]


def _dominates(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Return whether a is not larger than b and closer to Keras."""
    of_a, of_b = _excess(a), _excess(b)
    return of_a is not None and of_b is not None and of_a < of_b and a["bytes"] <= b["bytes"]


def _image_time(file: dict[str, Any]) -> tuple[str, str] | None:
    """Return the time of one new (or decoded, or classified) image on one thread, and the description of the call."""
    calls = (("generate", "draws a new image"), ("decode", "decodes an image"), ("classify", "classifies an image"))
    times = ((_latency(file, f"{endpoint}_1"), what) for endpoint, what in calls)
    return next(((_time(microseconds), what) for microseconds, what in times if microseconds is not None), None)


def _latency(file: dict[str, Any], signature: str, threads: str = "1") -> float | None:
    """Return the microseconds of a call; None if it was not measured."""
    return (file["behaviour"].get("latency_us") or {}).get(signature, {}).get(threads)


def _behaviour(name: str) -> Cell:
    return lambda file: file["behaviour"].get(name)


def _quality(report: dict[str, Any]) -> list[_Column]:
    count = (report.get("verification") or {}).get("tested_on") or 0
    images = f"{count:,} test images" if count else "the test images"
    return [
        _Column(
            "ELBO",
            f"Mean over {images}, computed with the file, in nats; higher is better. One posterior sample per image, "
            "with the same noise in every file.",
            _behaviour("elbo"),
            lambda x: number(x, 2),
        ),
        _Column("nats lost", "ELBO of Keras minus ELBO of the file.", _behaviour("nats_lost"), _nats),
        _Column(
            "rank corr.",
            "Spearman’s rank correlation between the scores of these images and their scores in Keras. 1 means that "
            "every image keeps its rank, so unusual images stay unusual.",
            _behaviour("score_rank_correlation"),
            _correlation,
        ),
        _Column(
            "PSNR, dB",
            "Reconstructions compared with those of Keras: at 40 dB they differ by 1 % of the range (root mean "
            "square), at 60 dB by 0.1 %.",
            _behaviour("psnr"),
            lambda x: "equal" if x >= 200 else number(x, 1),
        ),
        _Column(
            "probe",
            "Accuracy of a linear classifier on the latents of the file, trained on one half of the labelled test "
            "images and tested on the other.",
            _behaviour("probe_accuracy"),
            _share,
        ),
        _Column("accuracy", f"Share of {images} that the file classifies correctly.", _behaviour("accuracy"), _share),
        _Column(
            "points lost",
            "Accuracy of Keras minus accuracy of the file, in percent of the images, with its standard error.",
            lambda file: None if file["behaviour"].get("accuracy_lost") is None else file["behaviour"],
            lambda found: _tenths(found["accuracy_lost"]) + _give_or_take(found.get("accuracy_lost_error")),
        ),
        _Column("same class", "Share of images with the same class as in Keras.", _behaviour("agreement"), _share),
    ]


def _cost(report: dict[str, Any]) -> list[_Column]:
    sizes = report["model"].get("batch_sizes") or []
    decodes = bool(report["model"]["latent_dim"])
    name, given, to = ("decode", "latent", "images") if decodes else ("classify", "image", "classes")

    def latency(size: int, threads: str) -> Cell:
        return lambda file: _latency(file, f"{name}_{size}", threads)

    columns = []
    for size in sorted({min(sizes), max(sizes)}) if sizes else []:
        inputs = f"{size} {given}s at once" if size > 1 else f"one {given}"
        columns += [
            _Column(f"{name} {size}", f"From {inputs} to {to}, on one thread.", latency(size, "1"), _time),
            _Column("2 threads", "", latency(size, "2"), _time),
        ]
    return [
        *columns,
        _Column(
            "cold start",
            "A new Python process imports the runtime, loads the file and "
            + ("decodes its first image." if decodes else "classifies its first image."),
            _behaviour("cold_start_ms"),
            lambda x: _time(1000 * x),
        ),
        _Column(
            "memory",
            "Peak resident memory of that process, including Python and NumPy.",
            _behaviour("peak_memory_mb"),
            lambda x: f"{number(x, 0)} MB",
        ),
        _Column(
            "runtime",
            "Oldest TensorFlow Lite release that supports the file's operators.",
            lambda file: file.get("oldest_runtime"),
            lambda x: f"{x} +",
        ),
    ]


def _table(columns: Iterable[_Column], files: list[dict[str, Any]]) -> dict[str, Any]:
    """Return columns and rows of a table, without the columns that have no value in any file."""
    columns = [column for column in columns if any(column.value(file) is not None for file in files)]
    return {"columns": columns, "rows": [(file, [column.cell(file) for column in columns]) for file in files]}


def _scores(score: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the quantiles of scores as points of a curve and rows of a table."""
    if not score or len(score.get("quantiles") or []) < 2:
        return None
    share, nats = np.array(score["quantiles"], dtype=float).T
    width, height = CURVE
    x = width * (nats - nats[0]) / max(nats[-1] - nats[0], 1e-12)
    rows = [(p, float(np.interp(p, share, nats)), float(np.interp(p, share, x))) for p in SHARES]
    return {
        "images": score.get("images"),
        "rows": [(_percent(p), number(value, 1)) for p, value, _ in rows],
        "dots": [(round(left, 1), round(height * (1 - p), 1)) for p, _, left in rows],
        "points": " ".join(f"{a:.1f},{height * (1 - p):.1f}" for a, p in zip(x, share)),
        "ends": (number(float(nats[0]), 0), number(float(nats[-1]), 0)),
        "width": width,
        "height": height,
    }


def _tensor_lines(tensors: dict[str, dict[str, Any]]) -> list[str]:
    """Return the tensors of a signature, one line each: `z float32 [B, 16]`."""
    return [f"{name} {spec['dtype']} [{', '.join(map(str, spec['shape']))}]" for name, spec in tensors.items()]


def _error(value: float | None) -> str:
    return UNKNOWN if value is None else significant(value, 2)


def _time(microseconds: float | None) -> str:
    if microseconds is None:
        return UNKNOWN
    for unit, name in ((1e6, "s"), (1e3, "ms")):
        if microseconds >= unit:
            return f"{significant(microseconds / unit, 2 if microseconds < 10 * unit else 3)} {name}"
    return f"{microseconds:.0f} µs"


def _nats(value: float) -> str:
    if abs(value) < 0.001:
        return "<0.001"
    return significant(value, 2)


def _loss(value: float) -> str:
    if value <= -0.001:
        return "nothing"
    return "less than 0.001 nats" if value < 0.001 else f"{_nats(value)} nats"


def _share(value: float) -> str:
    """Format a share of images with one decimal."""
    return f"{number(100 * value, 1)} %"


def _points(value: float) -> str:
    """Format a difference of accuracies."""
    return f"{_tenths(value)} points"


def _tenths(value: float) -> str:
    text = number(100 * value, 1)
    return "0" if text.strip("−") == "0.0" else text


def _points_lost(value: float) -> str:
    return "no accuracy" if value <= 0 else f"{_points(value)} of accuracy"


def _give_or_take(error: float | None) -> str:
    return "" if error is None else f" ± {number(100 * error, 1)}"


def _correlation(value: float) -> str:
    return "1" if value > 1 - 1e-12 else ">0.9999" if value > 0.99995 else number(value, 4)


def _percent(share: float) -> str:
    return "<1 %" if share < 0.01 else f"{100 * share:.0f} %"
