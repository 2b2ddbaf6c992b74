"""Objectives and schedules against the formula."""

import keras
import numpy as np
import pytest

from kvae import objectives, schedules
from kvae.schedules import schedule_value

TERMS = objectives.Terms(
    distortion=np.asarray([[1.0, 2.0], [3.0, 6.0]], "float32"),
    rate=np.asarray([0.5, 1.5], "float32"),
    log_weight=None,
    z=None,
    z_mean=None,
)


@pytest.mark.parametrize(
    ("beta", "step", "expected"),
    [
        (1.0, None, [2.5, 5.5]),
        (0.0, None, [2.0, 4.0]),
        (4.0, None, [4.0, 10.0]),
        (schedules.LinearWarmup(steps=10), 5, [2.25, 4.75]),
        (schedules.LinearWarmup(steps=10), None, [2.5, 5.5]),
        (schedules.Cyclical(steps=10, cycles=2), 12, [2.2, 4.6]),
        (keras.optimizers.schedules.PolynomialDecay(1.0, 10, 0.0), 5, [2.25, 4.75]),
    ],
)
def test_elbo_is_distortion_plus_beta_rate(beta, step, expected):
    np.testing.assert_allclose(objectives.ELBO(beta)(TERMS, step), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (schedules.LinearWarmup(steps=4, start=1.0, end=3.0), [1, 1.5, 2, 2.5, 3, 3]),
        (schedules.Cyclical(steps=4, cycles=1, ratio=0.5), [0, 0.5, 1, 1, 1, 1]),
        (schedules.Cyclical(steps=2, cycles=2, ratio=1.0, end=2.0), [0, 1, 0, 1, 2, 2]),
    ],
)
def test_schedules(schedule, values):
    assert [float(schedule_value(schedule, step)) for step in range(6)] == pytest.approx(values)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert [float(again(step)) for step in range(6)] == pytest.approx(values)


@pytest.mark.parametrize("beta", [2.0, schedules.LinearWarmup(steps=7, end=0.5), schedules.Cyclical(steps=3)])
def test_elbo_config_round_trip(beta):
    objective = objectives.ELBO(beta, num_samples=3)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(objective))
    assert again.num_samples == 3
    np.testing.assert_allclose(again(TERMS, 2), objective(TERMS, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: objectives.ELBO(beta=-1.0), r"`beta` must be >= 0. Received: beta=-1.0"),
        (lambda: objectives.ELBO(beta=float("nan")), "beta=nan"),
        (lambda: objectives.ELBO(num_samples=0), "num_samples=0"),
        (lambda: schedules.LinearWarmup(steps=0), "steps=0"),
        (lambda: schedules.Cyclical(steps=5, cycles=0), "cycles=0"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
