"""`kvae evaluate`."""

import contextlib
import functools
import hashlib
import json as json_format
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kvae.cli.console import CommandError, optional_steps, say, table, warn_if_emulated
from kvae.cli.options import DataDirOption, open_run
from kvae.cli.tables import ROWS, show_scores, value_and_error
from kvae.files import atomic_file
from kvae.run import RunFolder, write_json

if TYPE_CHECKING:
    import numpy as np


#: settings that may differ between runs of one configuration
RUN_SPECIFIC = {"seed", "created", "versions", "data_dir", "kept_epoch", "kept_because"}
CODED = 500  # images to compress
AUDITED = 200  # images drawn from the model
PAIRED = 1000  # images whose posteriors are compared with each other


def evaluate(
    context: typer.Context,
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders made by `kvae train`.", show_default=False)
    ],
    split: Annotated[
        str, typer.Option(help="Split to score: train, validation, test, or new (images added since training).")
    ] = "test",
    samples: Annotated[int, typer.Option(min=1, help="Posterior samples K per image; papers use 5000.")] = 64,
    proposal: Annotated[
        Literal["auto", "posterior", "refined", "annealed"],
        typer.Option(
            help="Distribution of the samples. refined adds an NLL with samples from near the mode of p(z|x), which is "
            "closer to the truth; annealed is for more than 500 latents. auto: one of them if the posterior has fewer "
            "than 10 effective samples."
        ),
    ] = "auto",
    audit: Annotated[
        bool,
        typer.Option("--audit", help=f"Bound the error of each NLL on {AUDITED} images drawn from the model."),
    ] = False,
    file: Annotated[
        Path | None,
        typer.Option(help="LiteRT file of the run's model: print what it loses, in nats.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Number of images (default: all).", show_default=False)
    ] = None,
    compare_train: Annotated[
        bool,
        typer.Option("--compare-train", help="Score as many training images, too, to show over- or underfitting."),
    ] = False,
    compression: Annotated[
        bool, typer.Option("--compression", help="Compare the size of the latents with that of image files.")
    ] = False,
    float32: Annotated[
        bool, typer.Option("--float32", help="Compute in float32, as exported files do, whatever the training used.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="JSON file to write the scores to.", show_default=False)] = None,
    data_dir: DataDirOption = None,
) -> None:
    """Score runs: ELBO, rate, distortion and importance-weighted likelihood, in nats per example.

    Runs that differ only in their seed also give a mean, with its standard error over the runs.

    The same command resumes an evaluation that was stopped.

    Example: kvae evaluate runs/mnist --samples 5000 --audit --json scores.json
    """
    if compare_train and split == "train":
        raise CommandError("Expected another --split with --compare-train. Received: --split train; leave it out")
    results = {}
    configs = []
    for run in runs:
        opened = open_run(run, context.obj)
        from kvae.evaluation import diagnose
        from kvae.models import float32_compute

        if len(runs) > 1:
            say(f"{run}")
        with float32_compute(opened.model) if float32 else contextlib.nullcontext():
            warn_if_emulated(opened.model.decoder.compute_dtype, "--float32")
            scores = _score(opened, split, samples, seed, limit, data_dir, proposal)
            steps, train = optional_steps(context.obj), None
            if compare_train:
                with steps("Not scored: training images"):
                    train = _score(opened, "train", samples, seed, scores["examples"], data_dir)
            with steps("Not estimated: KL(q(z) ‖ p)"):
                scores |= _aggregate(opened, split, limit, data_dir)
            configs.append({name: value for name, value in opened.config.items() if name not in RUN_SPECIFIC})
            show_scores(scores)
            if proposal == "auto" and "nll_refined" in scores:
                say(
                    f"The posterior has few effective samples: the NLL with {scores['proposal']} proposals was added.\n"
                )
            if audit:
                with steps("Not made: audit"):
                    scores["audit"] = _audit(opened, scores, split, limit, data_dir)
            if file is not None:
                with steps(f"Not scored: {file}"):
                    scores["file"] = _through_file(opened, file, split, seed, limit, data_dir)
            if train:
                _show_gap(scores, train)
                scores["train"] = train
            for finding in diagnose(scores, train):
                say(f"{finding.message}\n")
            if compression:
                with steps("Not made: compression table"):
                    scores["compression"] = _compression(opened, split, seed, limit, data_dir)
        results[str(run)] = scores | ({"not_made": steps.failed} if steps.failed else {})
    content: Any = next(iter(results.values()))
    if len(runs) > 1:
        content = {"runs": results}
        if different := sorted({name for a in configs for name in a if a[name] != configs[0].get(name)}):
            say(f"No mean over the runs: they differ in {', '.join(different)}.")
        else:
            with optional_steps(context.obj)("Not made: mean of the runs"):
                content["mean"] = _mean(list(results.values()))
    if json is not None:
        write_json(json, content)
        say(f"Wrote {json}")


def _score(
    run: RunFolder,
    split: str,
    samples: int,
    seed: int,
    limit: int | None,
    data_dir: Path | None,
    proposal: str = "posterior",
) -> dict[str, Any]:
    """Score a run. Resume an interrupted evaluation of the same images, and remove its file at the end."""
    from kvae.evaluation import EvaluationWarning, evaluate as score

    data = run.data(data_dir=data_dir)
    images = [run.config.get(key) for key in ("source", "binarize", "size", "data_seed", "schema")]
    partial = PartialScores(run.path, [split, samples, seed, limit, run.model.decoder.compute_dtype, *images])
    done = partial.load()
    if done is not None:
        refined = max(len(done.get(f"{name}_nll", ())) for name in ("refined", "annealed"))
        say(f"Resuming after {len(done['nll']):,} images" + (f", {refined:,} of them refined." if refined else "."))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EvaluationWarning)  # they are printed as findings
        score_split = functools.partial(
            score, run.model, data, samples, split, progress=True, seed=seed, limit=limit, save=partial.save,
            proposal=proposal,
        )  # fmt: skip
        try:
            scores = score_split(done=done)
        except ValueError:
            if done is None:
                raise
            say("The dataset has changed; restarting from the first image.")
            scores = score_split()
    partial.path.unlink(missing_ok=True)
    return scores


class PartialScores:
    """A file in the RUN folder with the rows of an unfinished evaluation.

    Its name is a fingerprint of the model file and the settings, so that no other evaluation resumes from it.
    """

    def __init__(self, run: Path, settings: Sequence[Any]):
        with open(run / "model.keras", "rb") as file:
            fingerprint = hashlib.file_digest(file, "sha256")
        fingerprint.update(json_format.dumps(settings).encode())
        self.path = run / f".evaluation-{fingerprint.hexdigest()[:16]}.npz"

    def load(self) -> "dict[str, np.ndarray] | None":
        import numpy as np

        try:
            with np.load(self.path) as rows:
                return dict(rows)
        except FileNotFoundError:
            return None

    def save(self, rows: "dict[str, np.ndarray]") -> None:
        import numpy as np

        with atomic_file(self.path) as temporary:
            np.savez(temporary, **rows)  # type: ignore[arg-type]


def _aggregate(run: RunFolder, split: str, limit: int | None, data_dir: Path | None) -> dict[str, float]:
    """Estimate mutual information and marginal KL from the first images.

    The result is empty for conditional models, flows and hierarchies: the density at the sample of another image takes
    too long.
    """
    from kvae.evaluation import aggregate_posterior
    from kvae.posteriors import InverseAutoregressive, TopDownNormal

    slow = {InverseAutoregressive: "a flow posterior", TopDownNormal: "a hierarchy of latents"}
    kind = slow.get(type(run.model.posterior), "a conditional model" if run.model.condition_dim is not None else None)
    if kind:
        say(f"KL(q(z) ‖ p) isn't estimated for {kind}.")
        return {}
    images = run.data(data_dir=data_dir).split(split, limit=min(limit or PAIRED, PAIRED))
    return aggregate_posterior(run.model, images)


def _audit(
    run: RunFolder, scores: dict[str, Any], split: str, limit: int | None, data_dir: Path | None
) -> dict[str, Any]:
    """Print how far each NLL is from the truth on images drawn from the model, and return the results by proposal."""
    from kvae.evaluation import audit

    condition = None
    if run.model.condition_dim is not None:
        import numpy as np

        labels = run.data(data_dir=data_dir).arrays(split, min(limit or AUDITED, AUDITED))[1]
        condition = np.resize(labels, AUDITED)  # type: ignore[arg-type]
    results = {}
    for proposal in dict.fromkeys(["posterior", scores["proposal"]]):
        samples = max(2, scores["num_samples"]) if proposal == "posterior" else None
        results[proposal] = audit(run.model, AUDITED, samples, proposal, scores["seed"], condition)
    table(
        [f"audit, {AUDITED} images drawn from the model", "samples", "nats from the truth, at most", "±"],
        [
            [f"NLL, {name} samples", f"{result['samples']:,.0f}", result["gap"], result["gap_error"]]
            for name, result in results.items()
        ],
    )
    say()
    return results


def _through_file(
    run: RunFolder, file: Path, split: str, seed: int, limit: int | None, data_dir: Path | None
) -> dict[str, Any]:
    """Print the NLL of the decoder of a file beside that of Keras, and return both."""
    from kvae.export import likelihood_through_file

    images, labels = run.data(data_dir=data_dir).arrays(split, limit)
    condition = labels if run.model.condition_dim is not None else None
    nats = likelihood_through_file(run.model, file, images, condition, seed=seed, progress=True)
    error = "" if nats["nats_lost_error"] is None else f" ± {nats['nats_lost_error']:.3f}"
    say(
        f"{nats['file']}: NLL {nats['nll_file']:.3f}, Keras {nats['nll_keras']:.3f} with the same {nats['samples']} "
        f"refined samples; {nats['nats_lost']:.3f}{error} nats lost\n"
    )
    return nats


def _compression(
    run: RunFolder, split: str, seed: int, limit: int | None, data_dir: Path | None
) -> list[dict[str, Any]]:
    """Print the table of codes for the first images, and return its rows."""
    from kvae.evaluation import compression_table

    images, _ = run.data(data_dir=data_dir).arrays(split, min(limit or CODED, CODED))
    rows = compression_table(run.model, images, seed)
    table(
        [f"code, {len(images):,} images", "", "bits per image", "without header", "PSNR dB", "as good"],
        [
            [row.code, row.kind, f"{row.bits:,.0f}", f"{row.payload:,.0f}"]
            + (["", ""] if row.psnr is None else [f"{row.psnr:.1f}", f"{row.reached:.0%}"])
            for row in rows
        ],
    )
    say("Bits of latents are their KL term, the average cost of bits-back coding. The decoder isn't counted.\n")
    return [row._asdict() for row in rows]


def _show_gap(scores: dict[str, Any], train: dict[str, Any]) -> None:
    from kvae.evaluation import generalisation_gap
    from kvae.networks import kind_of

    gap, error = generalisation_gap(scores, train)
    word = "lower" if gap >= 0 else "higher"
    many = kind_of(train["event_shape"])
    say(f"train, {train['examples']:,} {many}: NLL {train['nll']:.3f}, {word} by {abs(gap):.3f} ± {error:.3f} nats\n")


def _mean(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Print the mean over the runs as a table, and return it."""
    from kvae.evaluation import over_runs
    from kvae.networks import kind_of

    one, many = (kind_of(results[0]["event_shape"], count) for count in (1, 2))
    mean = over_runs(results)
    table(
        [f"mean of {mean['runs']} runs", f"nats per {one}", f"± over {many}", "± over runs"],
        [
            [label.format(**mean), *value_and_error(mean, name), mean[f"{name}_error_runs"]]
            for name, label in ROWS.items()
            if name in mean
        ],
    )
    return mean
