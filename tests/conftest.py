"""Shared fixtures, and the rules for failures of a test run."""

import gc
import os
import zlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# One thread per worker. More threads wait for each other at every small matrix: ten times slower with several workers.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SCIPY_ARRAY_API", "1")  # required by one of scikit-learn's estimator checks

import keras
import numpy as np
import pytest
import tensorflow as tf
import tiers

from kvae.export import behaviour

# Two devices on one processor for tests of replicas. They must be configured before TensorFlow is used.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


#: warning categories of kvae: an error in a test that doesn't expect them
WARNINGS = ("callbacks.TrainingWarning", "data.DataWarning", "evaluation.EvaluationWarning")
REQUIRE_ALL = bool(os.environ.get("KVAE_REQUIRE_ALL"))


def pytest_configure(config):
    for category in WARNINGS:
        config.addinivalue_line("filterwarnings", f"error::kvae.{category}")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config, items):
    tiers.assign(items)
    if REQUIRE_ALL and not any("::" in argument for argument in config.args):
        tiers.check(items)


def refuse_skip(report):
    """Turn a skipped test into a failure if all requirements of the tests must be installed (`.ci/run`)."""
    if REQUIRE_ALL and report.skipped and isinstance(report.longrepr, tuple):  # other skips are expected failures
        *_, reason = report.longrepr
        report.outcome = "failed"
        report.longrepr = f"Expected no skip under KVAE_REQUIRE_ALL. Received: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    return refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    return refuse_skip((yield))


# Tracing a graph creates no garbage, but garbage collection would take a third of the time.
gc.set_threshold(200_000, 20, 20)


# No test depends on the latency of an exported file.
behaviour.SECONDS = 0.0


@pytest.fixture(autouse=True, scope="module")
def _small_heap():
    """Exclude imported modules from garbage collection: it takes a second, and Keras runs it many times."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _fresh_keras(request):
    """Reset settings and seeds to the defaults before every test."""
    _default_settings()
    keras.utils.set_random_seed(0)
    if hasattr(request.module, "RNG"):
        request.module.RNG.bit_generator.state = np.random.default_rng(
            zlib.crc32(request.node.name.encode())
        ).bit_generator.state
    yield
    _default_settings()


def _default_settings():
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.config.set_image_data_format("channels_last")


@pytest.fixture(scope="session")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits: images (1797, 8, 8, 1) in [0, 1], and labels."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return (x.reshape(-1, 8, 8, 1) / 16).astype("float32"), y


@pytest.fixture
def eager():
    """Run functions eagerly: for a few steps on a few rows, tracing would take most of the time."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def two_replicas() -> tf.distribute.Strategy:
    """Return a strategy of two replicas on one processor.

    It uses `ReductionToOneDevice`, because TensorFlow's default reduction aborts for a second model of another size in
    the same process.
    """
    devices = [device.name for device in tf.config.list_logical_devices("CPU")[:2]]
    assert len(devices) == 2
    return tf.distribute.MirroredStrategy(devices, tf.distribute.ReductionToOneDevice())
