"""Time of training by kind of operation, from the TensorFlow profiler.

    python benchmarks/training/where_time_goes.py

An epoch of synthetic 28×28 images, batch 128, as in `kvae train`, for the default network and for an MLP
784-200-200-50. The numbers are milliseconds per step of each kind of operation, summed over the threads. The profiler
itself makes short operations slower.
"""

import argparse
import collections
import os
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import tensorflow as tf
from common import store
from tensorflow.tsl.profiler.protobuf import xplane_pb2

import kvae

BATCH = 128
#: kinds of operations; an unlisted operation keeps its own name
KINDS = {
    "convolutions, forwards": ("Conv2D",),
    "convolutions, gradients": ("Conv2DBackpropInput", "Conv2DBackpropFilter", "Conv2DBackpropFilterWithBias"),
    "matrix products": ("MatMul",),
    "activations and their gradients": ("Relu", "ReluGrad", "BiasAdd", "BiasAddGrad", "Softplus", "Sigmoid", "Tanh"),
    "arithmetic, number by number": (
        "AddN", "AddV2", "Cast", "Exp", "Greater", "GreaterEqual", "IsFinite", "LessEqual", "Log", "Log1p",
        "LogicalAnd", "Maximum", "Minimum", "Mul", "Neg", "Pow", "RealDiv", "Rsqrt", "SelectV2", "Sqrt", "Square",
        "Sub", "UnaryOpsComposition",
    ),
    "optimizer": ("ResourceApplyAdam", "AssignAddVariableOp", "AssignSubVariableOp", "AssignVariableOp"),
    "random numbers": ("StatelessRandomNormalV2", "StatelessRandomUniformV2"),
    "sums": ("Sum", "Mean", "All", "Max", "L2Loss"),
    "moving data": ("DepthToSpace", "SpaceToDepth", "Transpose", "Reshape", "ConcatV2", "Split", "StridedSlice", "Pad"),
}  # fmt: skip
CALLS = ("StatefulPartitionedCall", "PartitionedCall", "While", "StatelessWhile", "If", "StatelessIf")


def profiled(vae: Any, images: int) -> dict[str, Any]:
    x = (np.random.default_rng(0).random((images, 28, 28, 1)) < 0.13).astype("uint8")
    data = kvae.data.load(x, batch_size=BATCH, validation_fraction=0, test_fraction=0).train
    count = images // BATCH
    vae.compile(kvae.optimizers.FusedAdam(1e-3, global_clipnorm=200.0), steps_per_execution=min(50, count // 8))
    vae.fit(data, verbose=0)
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            started = time.perf_counter()
            vae.fit(data, verbose=0)
            wall = time.perf_counter() - started
        space = xplane_pb2.XSpace()
        space.ParseFromString(next(Path(folder).rglob("*.xplane.pb")).read_bytes())
    milliseconds: collections.Counter[str] = collections.Counter()
    names = {name: kind for kind, members in KINDS.items() for name in members}
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name, spent = plane.event_metadata[event.metadata_id].name, event.duration_ps / 1e9 / count
                operation = re.sub("^_(MklNative|Mkl)?(Fused)?", "", name.rpartition(":")[2])
                if line.name.startswith("tf_data_private_threadpool"):
                    if name == "ExecutorState::Process":
                        milliseconds["the pipeline, on threads of its own"] += spent
                elif name == "IteratorGetNextAsOptionalOp::DoCompute":
                    milliseconds["waiting for the pipeline"] += spent
                elif line.name.startswith("tf_Compute") and ":" in name and "::" not in name and operation not in CALLS:
                    milliseconds[names.get(operation, operation)] += spent
    return {"wall": round(1000 * wall / count, 2), "milliseconds": milliseconds}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    mlp = {
        "encoder": kvae.Encoder(50, kvae.networks.MLP((200, 200))),
        "decoder": kvae.Decoder((28, 28, 1), kvae.networks.MLP((200, 200))),
    }
    found = {
        "default": profiled(kvae.VAE(latent_dim=16, image_shape=(28, 28, 1)), 6400),
        "mlp": profiled(kvae.VAE(**mlp), 38_400),
    }
    for network, row in found.items():
        print(f"{network}: {row['wall']:.2f} ms per step; time summed over threads")
        row["milliseconds"] = {kind: round(value, 3) for kind, value in row["milliseconds"].most_common(14)}
        for kind, value in row["milliseconds"].items():
            print(f"  {value:8.2f} ms  {kind}")
    store("training_where_time_goes", {"batch": BATCH, "networks": found})
