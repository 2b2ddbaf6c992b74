"""Pythae's VAE on static MNIST, trained as in its reproducibility script and scored by its `get_nll`.

    TFDS_DATA_DIR=... python benchmarks/likelihood/reproduce_pythae.py --peer-python PATH

Pythae's repository reports 89.78. It contains network, optimiser, batches and milestones, but not the training
configuration. Pythae requires a separate environment (`pip install pythae==0.1.2 torch`). `--peer-python` is its
interpreter. This script uses its class and loss in a plain loop, and the weights with the best validation loss, as its
trainer does. The row of kvae is `run.py pythae`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LATENTS, WIDTH, BATCH, SAMPLES = 40, 400, 100, 200
MILESTONES, GAMMA = [200, 350, 500, 750, 1000], 10 ** (-1 / 5)


def peer(arrays: str, learning_rate: float, epochs: int, seed: int) -> None:
    """Train in the peer's environment. Print progress to stderr and the result as JSON to stdout."""
    import copy

    import numpy as np
    import torch
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from torch import nn

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, WIDTH), nn.ReLU())
            self.mean, self.log_variance = nn.Linear(WIDTH, LATENTS), nn.Linear(WIDTH, LATENTS)

        def forward(self, x):
            hidden = self.body(x)
            return ModelOutput(embedding=self.mean(hidden), log_covariance=self.log_variance(hidden))

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(LATENTS, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 784), nn.Sigmoid())

        def forward(self, z):
            return ModelOutput(reconstruction=self.body(z).reshape(-1, 1, 28, 28))

    torch.manual_seed(seed)
    torch.set_flush_denormal(True)  # for Adam's moments of pixels that are always 0
    images = {name: torch.tensor(x.astype("float32")) for name, x in np.load(arrays).items()}
    config = VAEConfig(input_dim=(1, 28, 28), latent_dim=LATENTS, reconstruction_loss="bce")
    model = VAE(config, Encoder(), Decoder())
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, MILESTONES, GAMMA)

    def loss(x: torch.Tensor) -> float:
        model.eval()
        with torch.no_grad():
            return model({"data": x}).loss.item()

    best, best_epoch, weights, started = float("inf"), 0, {}, time.perf_counter()
    for epoch in range(1, epochs + 1):
        model.train()
        for batch in torch.randperm(len(images["train"])).split(BATCH):
            optimizer.zero_grad()
            model({"data": images["train"][batch]}).loss.backward()
            optimizer.step()
        schedule.step()
        if (validation := loss(images["validation"])) < best:
            best, best_epoch, weights = validation, epoch, copy.deepcopy(model.state_dict())
        if epoch % 10 == 0:
            print(f"{epoch}: validation {validation:.2f}, best {best:.2f}", file=sys.stderr, flush=True)
    seconds = time.perf_counter() - started
    model.load_state_dict(weights)
    found = {"best_epoch": best_epoch, "train_seconds": round(seconds), "threads": torch.get_num_threads()}
    found |= {f"negative_elbo_{name}": loss(x) for name, x in images.items()}
    with torch.no_grad():
        found["nll"] = -float(model.get_nll(images["test"], SAMPLES, SAMPLES))
    print(json.dumps({**found, "torch": torch.__version__}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", required=True, help="interpreter of an environment with pythae 0.1.2")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--epochs", type=int, default=500)
    parser.add_argument("--seed", type=int, default=123)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    options = parser.parse_args()
    training = {"learning_rate": options.learning_rate, "epochs": options.epochs, "seed": options.seed}
    if options.peer:
        peer(options.peer, **training)
        sys.exit()

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import numpy as np
    from common import RESULTS, store

    import kvae

    data = kvae.data.load("binarized_mnist")
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/images.npz"
        splits = {name: data.arrays(name)[0].reshape(-1, 1, 28, 28) for name in ("train", "validation", "test")}
        np.savez(path, **{name: x.astype("uint8") for name, x in splits.items()})
        command = [options.peer_python, __file__, "--peer-python", options.peer_python, "--peer", path]
        command += [f"--{name.replace('_', '-')}={value}" for name, value in training.items()]
        result = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout)
    print(f"−ELBO: {result['negative_elbo_train']:.2f} train, {result['negative_elbo_validation']:.2f} validation, "
          f"{result['negative_elbo_test']:.2f} test, NLL, K = {SAMPLES}: {result['nll']:.2f} on all "
          f"{len(splits['test']):,} test images")  # fmt: skip
    stored = RESULTS / "likelihood_pythae.json"
    runs = json.loads(stored.read_text(encoding="utf-8"))["runs"] if stored.is_file() else {}
    key = f"learning rate {options.learning_rate:g}, {options.epochs} epochs"
    store("likelihood_pythae", {"samples": SAMPLES, "runs": runs | {key: {**training, **result}}})
