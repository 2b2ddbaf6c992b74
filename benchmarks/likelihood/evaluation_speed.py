"""Importance-weighted likelihood of the network of IWAE: `kvae.evaluation` against Pythae's `get_nll` with K = 5000.

Pythae, the peer, requires a separate environment (`pip install pythae==0.1.2 torch`). `--peer-python` is its
interpreter. It is started once and takes turns with kvae. Both have 784-200-200-50 tanh networks with the same weights
and images. Both estimates with K = 5000 samples of the posterior are printed: they agree within their Monte Carlo
error. kvae also scores with refined proposals; the bias and the error of an image of each estimate are relative to
5,000 samples of these.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIZES = (784, 200, 200, 50)
SAMPLES = 5000
REFINED = {  # samples, Newton steps
    "refined, 20 samples": (20, 1),
    "refined, 100 samples": (100, 1),
    "refined, as many as required": (None, 2),
}
PEER_BATCH = 100  # get_nll's default


def peer(folder: str) -> None:
    """Answer each line `{"images": n, "batch": b}` with seconds and the mean nll, in the peer's environment."""
    import numpy as np
    import torch
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    arrays = np.load(Path(folder) / "weights.npz")

    def dense(name: str) -> torch.nn.Linear:
        layer = torch.nn.Linear(*arrays[f"{name}_kernel"].shape)
        layer.weight.data = torch.tensor(arrays[f"{name}_kernel"].T)
        layer.bias.data = torch.tensor(arrays[f"{name}_bias"])
        return layer

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Sequential(
                torch.nn.Flatten(), dense("encoder_0"), torch.nn.Tanh(), dense("encoder_1"), torch.nn.Tanh()
            )
            self.head = dense("encoder_2")

        def forward(self, x):
            mean, log_scale = self.head(self.body(x)).chunk(2, dim=-1)
            return ModelOutput(embedding=mean, log_covariance=2 * log_scale)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.body = torch.nn.Sequential(
                dense("decoder_0"), torch.nn.Tanh(), dense("decoder_1"), torch.nn.Tanh(), dense("decoder_2"),
                torch.nn.Sigmoid(),
            )  # fmt: skip

        def forward(self, z):
            return ModelOutput(reconstruction=self.body(z).reshape(-1, 1, 28, 28))

    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=SIZES[-1], reconstruction_loss="bce")
    model = VAE(config, Encoder(), Decoder()).eval()
    x = torch.tensor(arrays["images"].reshape(-1, 1, 28, 28))
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads()}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        with torch.no_grad():
            measured = timed(lambda n=asked["images"], b=asked["batch"]: model.get_nll(x[:n], SAMPLES, b))
        print(json.dumps({**measured, "nll": -float(measured["result"]), "result": None}), flush=True)


def timed(run) -> dict:
    """Return the seconds of wall clock and of processor (user + system), and the result of `run`."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    result = run()
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return {"seconds": seconds, "cpu_seconds": cpu, "result": result}


def make_model():
    """Return the network of IWAE (Burda et al. 2016, one stochastic layer)."""
    import keras

    import kvae

    keras.utils.set_random_seed(0)
    return kvae.VAE(
        encoder=kvae.Encoder(SIZES[-1], kvae.networks.MLP(SIZES[1:3], activation="tanh")),
        decoder=kvae.Decoder((28, 28, 1), kvae.networks.MLP(SIZES[2:0:-1], activation="tanh")),
        latent_dim=SIZES[-1],
        image_shape=(28, 28, 1),
    )


def train(model, images, epochs: int) -> None:
    import keras

    model.compile(keras.optimizers.Adam(1e-3))
    model.fit(images, batch_size=100, epochs=epochs, verbose=0)


def weights(model) -> dict:
    """Return the weights of all six dense layers by name. The peer's unbounded log-scales are equal in this range."""
    found = {}
    for part in ("encoder", "decoder"):
        arrays = getattr(model, part).get_weights()
        for i in range(3):
            found[f"{part}_{i}_kernel"], found[f"{part}_{i}_bias"] = arrays[2 * i], arrays[2 * i + 1]
    return found


def breakdown(model, rounds: int = 5) -> dict[str, float]:
    """Return milliseconds of processor time of each part of the score of one image (K latents)."""
    import tensorflow as tf

    from kvae.distributions import seed_words
    from kvae.evaluation.importance import SampleNoise

    z = tf.random.normal((SAMPLES, SIZES[-1]))
    params = model.decoder(z)
    x = tf.zeros((1, 28, 28, 1))
    words = tf.constant(seed_words(0))
    parts = {
        "noise": (tf.function(lambda i: SampleNoise(words, i[None], 0).normal((SAMPLES, 1, SIZES[-1])),
                              jit_compile=True), tf.constant(3)),
        "decoder": (tf.function(model.decoder, jit_compile=True), z),
        "log p(x|z)": (tf.function(lambda p: model.likelihood.log_prob(p, x), jit_compile=True), params),
    }  # fmt: skip
    found = {}
    for name, (run, argument) in parts.items():
        run(argument)
        seconds = [timed(lambda r=run, a=argument: r(a).numpy())["cpu_seconds"] for _ in range(rounds)]
        found[name] = round(1000 * statistics.median(seconds), 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="interpreter of an environment with pythae 0.1.2")
    parser.add_argument("--images", type=int, default=180, help="images per round that kvae scores")
    parser.add_argument("--peer-images", type=int, default=8, help="images per round that the peer scores")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=5, help="epochs of training on enlarged digits; 0 for none")
    options = parser.parse_args()

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import numpy as np
    from common import extent, median_ratio, store

    import kvae
    from kvae.evaluation import score_images
    from kvae.evaluation.refined import RefinedSampler

    data = kvae.data.load("digits", size=28, binarize="stochastic")
    model = make_model()
    if options.epochs:
        train(model, data.arrays("train")[0], options.epochs)
    images = data.arrays("test", limit=options.images)[0]
    ours: list[dict] = []
    theirs: list[dict] = []
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "weights.npz", images=images, **weights(model))
        command = [options.peer_python, __file__, "--peer", folder]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                              stderr=subprocess.DEVNULL) as process:  # fmt: skip
            assert process.stdin
            assert process.stdout
            about = json.loads(process.stdout.readline())

            def ask(count: int) -> dict:
                print(json.dumps({"images": count, "batch": PEER_BATCH}), file=process.stdin, flush=True)
                return json.loads(process.stdout.readline())

            ask(1)
            score_images(model, images[:2], SAMPLES)
            samplers = {
                name: (k, RefinedSampler(model, k, 0, 256, steps=steps)) for name, (k, steps) in REFINED.items()
            }

            def refined(name: str, x) -> dict:
                k, sampler = samplers[name]
                return score_images(model, x, k, proposal="refined", sampler=sampler)

            many = data.arrays("train")[0]
            for name in REFINED:
                refined(name, many)
            fast: dict[str, list[dict]] = {name: [] for name in REFINED}
            for _ in range(options.rounds):
                ours.append(timed(lambda: score_images(model, images, SAMPLES)))
                for name in REFINED:
                    fast[name].append(timed(lambda name=name: refined(name, many)))
                theirs.append(ask(options.peer_images))
            process.stdin.close()

    result = {"samples": SAMPLES, "rounds": options.rounds, "peer": {"pythae": "0.1.2", **about}}
    for unit in ("seconds", "cpu_seconds"):
        per_image = [r[unit] / len(images) for r in ours], [r[unit] / options.peer_images for r in theirs]
        result[unit] = {
            "ratio": round(median_ratio(per_image[1], per_image[0]), 1),
            "kvae_per_image": statistics.median(per_image[0]),
            "kvae_spread": extent(per_image[0]),
            "pythae_per_image": statistics.median(per_image[1]),
            "pythae_spread": extent(per_image[1]),
        }
        row = result[unit]
        print(f"{row['ratio']:6.1f}×  {unit} per image: kvae {row['kvae_per_image']:.4f} ({row['kvae_spread']}), "
              f"Pythae {row['pythae_per_image']:.4f} ({row['pythae_spread']})")  # fmt: skip
        for name, rounds in fast.items():
            times = [r[unit] / len(many) for r in rounds]
            result[unit][name] = {
                "ratio": round(median_ratio(per_image[1], times), 1),
                "kvae_per_image": statistics.median(times),
                "kvae_spread": extent(times),
            }
            print(f"{result[unit][name]['ratio']:6.1f}×  the same, {name}: {1e3 * statistics.median(times):.2f} ms "
                  f"({extent([1e3 * t for t in times])})")  # fmt: skip
    first = ours[0]["result"]
    exact = score_images(model, images, SAMPLES, seed=9, proposal="refined")["nll"]
    estimates = {"posterior, 5000 samples": first} | {name: refined(name, images) for name in REFINED}
    result["errors"] = {
        name: {
            "bias": float(np.mean(scores["nll"] - exact)),
            "error": float(np.sqrt(np.mean(np.square(scores["nll"] - exact)))),
            "ess_median": float(np.median(scores["ess"])),
        }
        for name, scores in estimates.items()
    }
    for name, row in result["errors"].items():
        print(f"{name}: bias {row['bias']:+.3f}, error of an image {row['error']:.3f} nats, "
              f"{row['ess_median']:.1f} effective samples")  # fmt: skip
    result["nll"] = {
        "kvae": float(first["nll"][: options.peer_images].mean()),
        "pythae": statistics.mean(r["nll"] for r in theirs),
        "images": options.peer_images,
    }
    result["cpu_milliseconds"] = breakdown(model)
    multiplications = SAMPLES * sum(a * b for a, b in itertools.pairwise(SIZES))
    result["gigaflop_of_decoding_an_image"] = 2 * multiplications / 1e9
    print(f"nll of the same {options.peer_images} images: {result['nll']}")
    print(f"processor milliseconds per image: {result['cpu_milliseconds']}; "
          f"{result['gigaflop_of_decoding_an_image']:.2f} Gflop of decoding")  # fmt: skip
    store("likelihood_evaluation_speed", result)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peer"]:
        peer(sys.argv[2])
    else:
        main()
