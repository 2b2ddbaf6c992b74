"""Likelihoods in comparison with papers: each experiment is a few `kvae` commands, whose results are stored.

    TFDS_DATA_DIR=... python benchmarks/likelihood/run.py pythae          # one experiment, several, or all of them
    python benchmarks/likelihood/run.py --list                            # the commands, without running any

Results are stored in benchmarks/results/likelihood.json, one entry for each run: the commands, the seconds of each
command (wall clock, and processor time of all cores), and the output of `kvae evaluate --json`. An entry with the same
commands isn't run again, unless `--again` is given. Runs and their figures stay in `--runs` (runs/likelihood).
"""

import argparse
import json
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from common import RESULTS, machine

STORED = RESULTS / "likelihood.json"
STATIC, DYNAMIC = "binarized_mnist", "mnist --binarize stochastic"
PARTS = "--latent-dim 40 --batch-size 100 --learning-rate 1.2e-3 --epochs 4"
COLOUR = "--latent-dim 128 --precision bfloat16 --learning-rate 1e-3 --epochs 8"
REFINED = "--proposal refined --audit"
IWAE = "--recipe iwae --batch-size 100 --epochs"

#: run: training command, evaluation command; `{run}` is the folder of the run, `{runs}` the folder of all runs
EXPERIMENTS: dict[str, dict[str, list[str]]] = {
    "pythae": {
        "pythae": [f"train {STATIC} --recipe pythae_vae --out {{run}}", f"evaluate {{run}} --samples 200 {REFINED}"],
        "pythae-dynamic": [
            f"train {DYNAMIC} --recipe pythae_vae --epochs 250 --out {{run}}",
            f"evaluate {{run}} --samples 200 {REFINED}",
        ],
    },
    "iwae": {
        f"iwae-{name}-k{k}": [
            f"train {source} {IWAE} 40 --importance-samples {k} --out {{run}}",
            f"evaluate {{run}} --samples 5000 --limit 2000 {REFINED}",
        ]
        for name, source in (("static", STATIC), ("dynamic", DYNAMIC))
        for k in (1, 5)
    },
    "iwae50": {
        "iwae-dynamic-k50": [
            f"train {DYNAMIC} {IWAE} 10 --importance-samples 50 --out {{run}}",
            f"evaluate {{run}} --samples 5000 --limit 2000 {REFINED}",
        ],
    },
    "vamp": {
        name: [
            f"train {STATIC} --recipe {name} --epochs 50 --out {{run}}",
            f"evaluate {{run}} --samples 500 {REFINED}",
        ]
        for name in ("gated_vae", "vamp")
    },
    # The contribution of each part: the same 4 epochs, from the default network to all parts except the fine-tuning.
    "parts": {
        f"parts-{name}": [
            f"train {STATIC} {PARTS} {options} --out {{run}}",
            "evaluate {run} --samples 100 --limit 2000",
        ]
        for name, options in {
            "conv": "",
            "residual": "--network residual --precision bfloat16",
            "ema": "--network residual --precision bfloat16 --ema 0.999",
            "prior": "--network residual --precision bfloat16 --ema 0.999 --prior flow",
            "posterior": "--network residual --precision bfloat16 --ema 0.999 --posterior flow",
            "both": "--network residual --precision bfloat16 --ema 0.999 --prior flow --posterior flow",
        }.items()
    },
    # Two training runs: the ELBO, then IWAE from its weights. Then the same for the phone.
    **{
        experiment: {
            f"{experiment}-elbo": [
                f"train {STATIC} --recipe {recipe} --out {{run}}",
                "evaluate {run} --samples 100 --limit 2000",
            ],
            experiment: [
                f"train {STATIC} --recipe {recipe} --from {{runs}}/{experiment}-elbo --importance-samples 5 "
                f"--epochs {epochs} --learning-rate 3e-4 --out {{run}}",
                f"evaluate {{run}} --samples {samples} {REFINED}",
            ],
        }
        for experiment, recipe, epochs, samples in (
            ("best", "residual_flow", 1, 64),
            ("phone", "phone_vae", 4, 1000),
        )
    },
    # A hierarchy after the same 4 epochs as the rows of `parts`, then the whole schedule, and IWAE from its weights. A
    # sample takes a pass of the decoder: K = 100.
    "ladder": {
        name: [f"train {STATIC} --recipe ladder {options} --out {{run}}", f"evaluate {{run}} --samples 100{limit}"]
        for name, options, limit in (
            ("ladder", "--epochs 4", " --limit 2000"),
            ("ladder-elbo", "--precision bfloat16", " --limit 2000"),
            (
                "ladder-iwae",
                "--precision bfloat16 --from {runs}/ladder-elbo --importance-samples 5 --epochs 2 --learning-rate 3e-4",
                "",
            ),
        )
    },
    # The same training run in every precision, compiled or not. Three seeds of the first show the noise.
    "precision": {
        f"precision-{name}": [f"train {DYNAMIC} --epochs 3 {options} --out {{run}}", "evaluate {run} --samples 16"]
        for name, options in {
            "float32": "--seed 0",
            "float32-seed1": "--seed 1",
            "float32-seed2": "--seed 2",
            "bfloat16": "--precision bfloat16",
            "float16": "--precision float16",
            "xla": "--xla",
            "deterministic": "--deterministic",
        }.items()
    },
    "colour": {
        f"colour-{likelihood}": [
            f"train cifar10_small --likelihood {likelihood} {COLOUR} --out {{run}}",
            "evaluate {run} --samples 100 --limit 2000",
        ]
        for likelihood in ("logistic-mixture", "normal-learned", "logistic", "normal-pixel")
    },
}


def run(name: str, commands: list[str], runs: Path, again: bool) -> dict:
    folder = runs / name
    trained = runs / f"{name}.json"  # times of training, so that an interrupted evaluation doesn't repeat it
    entry: dict = {"commands": [], "wall_seconds": [], "processor_seconds": []}
    for command in commands:
        short = "kvae " + command.format(run=name, runs=".")
        line = command.format(run=folder, runs=runs)
        is_training = line.startswith("train")
        done = (
            json.loads(trained.read_text(encoding="utf-8")) if is_training and trained.is_file() and not again else {}
        )
        if done.get("command") != short:
            line += " --overwrite" if is_training else f" --json {folder}/evaluation.json"
            print("\n$ kvae", line, flush=True)
            before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run([sys.executable, "-m", "kvae", *shlex.split(line)], check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            done = {"command": short, "wall": round(time.perf_counter() - started), "processor": round(used)}
            if is_training:
                trained.write_text(json.dumps(done), encoding="utf-8")
        entry["commands"].append(short)
        entry["wall_seconds"].append(done["wall"])
        entry["processor_seconds"].append(done["processor"])
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    entry |= {"seed": config["seed"], "epochs": metrics["epochs"], "weights": config["weights"]}
    return entry | {"evaluation": json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))}


def commands_of(experiment: str) -> dict[str, list[str]]:
    return {
        name: ["kvae " + command.format(run=name, runs=".") for command in commands]
        for name, commands in EXPERIMENTS[experiment].items()
    }


def read_stored() -> dict:
    return json.loads(STORED.read_text(encoding="utf-8")) if STORED.is_file() else {}


def is_stored(name: str, lines: list[str]) -> bool:
    return read_stored().get(name, {}).get("commands") == lines


def is_missed(experiment: str, name: str, runs: Path) -> bool:
    """Return whether the model of this run is missing and a run without stored results starts from it."""
    is_needed = any(
        any(f" ./{name} " in line for line in lines) and not is_stored(other, lines)
        for other, lines in commands_of(experiment).items()
    )
    return is_needed and not (runs / name / "model.keras").is_file()


def show(stored: dict) -> None:
    """Print the stored results, one line each."""
    print(f"{'':<26}{'−ELBO':>9}{'NLL':>9} ± s.e.{'K':>7}{'refined':>9}{'images':>8}{'bits/dim':>10}{'epochs':>8}"
          f"{'training':>10}")  # fmt: skip
    for name, entry in stored.items():
        scores, seconds = entry["evaluation"], entry["wall_seconds"][0]
        refined = f"{scores['nll_refined']:.2f}" if "nll_refined" in scores else ""
        took = "" if seconds is None else f"{seconds / 60:.0f} min"
        print(
            f"{name:<26}{-scores['elbo']:>9.2f}{scores['nll']:>9.2f} ± {scores['nll_error']:.2f}"
            f"{scores['num_samples']:>7}{refined:>9}{scores['examples']:>8}{scores['bits_per_dim_nll']:>10.3f}"
            f"{entry['epochs']:>8}{took:>10}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiments", nargs="*", help=f"any of {', '.join(EXPERIMENTS)} (default: all)")
    parser.add_argument("--list", action="store_true", help="only show the commands")
    parser.add_argument("--again", action="store_true", help="run stored experiments again")
    parser.add_argument("--runs", type=Path, default=Path("runs/likelihood"))
    parser.add_argument("--stored", action="store_true", help="only show the stored results")
    options = parser.parse_args()
    if options.stored:
        show(read_stored())
        sys.exit()
    if unknown := set(options.experiments) - set(EXPERIMENTS):
        parser.error(f"expected experiments from {', '.join(EXPERIMENTS)}. Received: {', '.join(unknown)}")
    for experiment in options.experiments or EXPERIMENTS:
        for name, lines in commands_of(experiment).items():
            if options.list:
                print(f"# {name}", *lines, sep="\n")
                continue
            if not options.again and is_stored(name, lines) and not is_missed(experiment, name, options.runs):
                print(f"{name}: already stored")
                continue
            entry = run(name, EXPERIMENTS[experiment][name], options.runs, options.again)
            stored = read_stored() | {name: entry | {"machine": machine()}}
            STORED.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")
            print(f"{name}: NLL {entry['evaluation']['nll']:.2f} nats, stored in {STORED.name}")
