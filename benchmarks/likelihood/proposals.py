"""Bias, error and time of the likelihood for each proposal, on trained runs.

    TFDS_DATA_DIR=... python benchmarks/likelihood/proposals.py runs/likelihood/default runs/likelihood/best

For each run: samples of the posterior, refined proposals with one or two Newton steps and several numbers of samples,
and annealed importance sampling, on the same test images. The reference is the refined proposal with many samples; an
error of an image is the root mean square of the difference from it. The audit bounds the mean error of the same
settings on images drawn from the model. Milliseconds don't include tracing.
"""

import argparse
import contextlib
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import json

import numpy as np
from common import RESULTS, store

import kvae
from kvae.evaluation import audit, score_images
from kvae.evaluation.annealed import AnnealedSampler
from kvae.evaluation.importance import ImportanceSampler
from kvae.evaluation.refined import RefinedSampler
from kvae.models import float32_compute
from kvae.run import RunFolder


def settings(vae: kvae.VAE, images: int, posterior: int) -> dict:
    """Return samplers by name; each has its own seed, so that no noise is that of the reference."""
    return {
        f"posterior, K = {posterior}": ("posterior", posterior, lambda: ImportanceSampler(vae, posterior, 1, images)),
        "refined, T = 1, K = 20": ("refined", 20, lambda: RefinedSampler(vae, 20, 2, images, steps=1)),
        "refined, T = 2, K = 20": ("refined", 20, lambda: RefinedSampler(vae, 20, 3, images)),
        "refined, T = 2, K = 100": ("refined", 100, lambda: RefinedSampler(vae, 100, 4, images)),
        "refined, T = 2, as required": ("refined", None, lambda: RefinedSampler(vae, None, 5, images)),
        "annealed, 10 chains of 100 levels": ("annealed", None, lambda: AnnealedSampler(vae, None, 6, images)),
    }


def measure(run: RunFolder, limit: int, posterior: int, reference: int, audited: int, skipped: str) -> dict:
    vae, images = run.model, run.data()
    data = images.split("test", labels=vae.condition_dim is not None, limit=limit, batch_size=limit)
    exact = score_images(vae, data, reference, seed=100, proposal="refined")
    print(f"\n{run.path.name}: {limit} test images, {vae.latent_dim} latents; reference of {reference:,} refined "
          f"samples: {exact['nll'].mean():.3f} nats, median ess {np.median(exact['ess']):.0f}")  # fmt: skip
    print(f"{'':<36}{'bias':>8}{'error':>8}{'ess':>8}{'K':>7}{'ms':>9}{'cpu ms':>9}   audit: at most")
    rows = {}
    for name, (proposal, num_samples, make) in settings(vae, limit, posterior).items():
        if skipped and name.startswith(skipped):
            continue
        sampler = make()
        score_images(vae, data.unbatch().batch(1).take(1), num_samples, proposal=proposal, sampler=sampler)
        if proposal == "refined":  # its second shape of blocks is traced once more
            score_images(vae, data, num_samples, proposal=proposal, sampler=sampler)
        wall, cpu = time.perf_counter(), time.process_time()
        scores = score_images(vae, data, num_samples, proposal=proposal, sampler=sampler)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        difference = scores["nll"] - exact["nll"]
        row = {
            "bias": float(difference.mean()), "error": float(np.sqrt(np.mean(difference**2))),
            "ess_median": float(np.median(scores["ess"])),
            "samples": float(np.mean(scores.get("samples", num_samples))),
            "milliseconds": 1e3 * wall / limit, "cpu_milliseconds": 1e3 * cpu / limit,
        }  # fmt: skip
        if audited and "T = 1" not in name:
            condition = np.arange(audited) % vae.condition_dim if vae.condition_dim else None
            row["audit"] = audit(vae, audited, num_samples, proposal, condition=condition)
        rows[name] = row
        bound = f"{row['audit']['gap']:.3f} ± {row['audit']['gap_error']:.3f}" if "audit" in row else ""
        print(f"{name:<36}{row['bias']:>+8.3f}{row['error']:>8.3f}{row['ess_median']:>8.1f}{row['samples']:>7,.0f}"
              f"{row['milliseconds']:>9.2f}{row['cpu_milliseconds']:>9.2f}   {bound}", flush=True)  # fmt: skip
    return {
        "images": limit, "latents": vae.latent_dim, "reference_samples": reference,
        "reference_nll": float(exact["nll"].mean()), "rows": rows,
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders made by `kvae train`")
    parser.add_argument("--limit", type=int, default=200, help="test images")
    parser.add_argument("--posterior", type=int, default=5000, help="samples of the posterior")
    parser.add_argument("--reference", type=int, default=5000, help="samples of the reference")
    parser.add_argument("--audited", type=int, default=100, help="images of the audit; 0 for none")
    parser.add_argument("--skip", default="", help="leave out settings whose names begin so, such as annealed")
    parser.add_argument("--float32", action="store_true", help="compute in float32, whatever the training used")
    options = parser.parse_args()
    stored = RESULTS / "likelihood_proposals.json"
    results = json.loads(stored.read_text(encoding="utf-8")) if stored.is_file() else {}
    for folder in options.runs:
        run = RunFolder(folder)
        with float32_compute(run.model) if options.float32 else contextlib.nullcontext():
            results[folder.name + ", float32" * options.float32] = measure(
                run, options.limit, options.posterior, options.reference, options.audited, options.skip
            )
        store("likelihood_proposals", results)
