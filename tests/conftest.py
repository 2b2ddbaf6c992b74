"""Fixtures that several rooms share, and what a test run counts as a failure."""

import gc
import os
import zlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# One for each worker: threads that wait for each other at every small matrix take ten times as long beside others.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("SCIPY_ARRAY_API", "1")  # or scikit-learn leaves one of its checks of estimators out

import keras
import numpy as np
import pytest
import tensorflow as tf

from kvae.export import behaviour

# Two devices on one processor, so that replicas can be tested; before anything else uses TensorFlow.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


#: warnings that kvae gives, wherever they point: an error in a test that doesn't expect them
OURS = ("callbacks.TrainingWarning", "data.DataWarning", "evaluation.EvaluationWarning")
REQUIRE_ALL = bool(os.environ.get("KVAE_REQUIRE_ALL"))


def pytest_configure(config):
    for category in OURS:
        config.addinivalue_line("filterwarnings", f"error::kvae.{category}")


def refuse_skip(report):
    """Where everything that tests need should be there (`.ci/run`), a test that is skipped has failed."""
    if REQUIRE_ALL and report.skipped and isinstance(report.longrepr, tuple):  # otherwise it failed as expected
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


# Of a graph that is traced, nothing is garbage; looking for it takes a third of the time.
gc.set_threshold(200_000, 20, 20)


# How long an exported file takes is no part of any test.
behaviour.SECONDS = 0.0


@pytest.fixture(autouse=True, scope="module")
def _small_heap():
    """What has been imported is no garbage: looking through it takes a second, and Keras asks for that many times."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _fresh_keras(request):
    """Every test starts from the default settings and seeds, whatever the one before did."""
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
    """scikit-learn's digits: images (1797, 8, 8, 1) in [0, 1], labels."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return (x.reshape(-1, 8, 8, 1) / 16).astype("float32"), y


@pytest.fixture
def eager():
    """No graph is traced: of a few steps on a few rows, that would be most of the time."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def two_replicas() -> tf.distribute.Strategy:
    """Two replicas on one processor.

    (TensorFlow's own way to add them up aborts when a second model of another size comes by in the same process.)
    """
    devices = [device.name for device in tf.config.list_logical_devices("CPU")[:2]]
    assert len(devices) == 2
    return tf.distribute.MirroredStrategy(devices, tf.distribute.ReductionToOneDevice())
