"""Files of a model of series: raw values in, nats out, and the newest window of a sensor."""

import subprocess
import sys

import numpy as np
import pytest
from sensors import LOCATION, SCALE, SENSORS, STEPS, windows

from kvae.distributions import IndexedNoise
from kvae.export.runtime import load, seed_words


@pytest.fixture(scope="module")
def file(series_folder):
    return load(series_folder / "vae_int8.tflite")


def test_files_take_and_return_raw_values(series_vae, series_folder, file):
    """An int8 file, too: values of 1000 ± 0.01 and of −5 ± 100 would share one scale of 8 bits."""
    x, exact = windows(30, seed=3), load(series_folder / "vae_float32.tflite")
    assert (file.event_shape, file.info["event"]) == ((STEPS, 3), "series")
    assert [feature["name"] for feature in file.info["features"]] == list(SENSORS)
    assert "image_shape" not in file.info
    off = {model: np.abs(model.reconstruct(x) - series_vae.reconstruct(x)) / SCALE for model in (exact, file)}
    assert off[exact].max() < 0.02  # the last digit of 1000 in float32 is 6e-5, and the scale of the sensor 0.01
    assert off[file].mean() < 0.05
    np.testing.assert_allclose(file.generate(4, seed=3), series_vae.generate(4, seed=3), atol=20, rtol=1e-3)


def test_the_page_of_the_export_draws_lines(series_folder):
    page = (series_folder / "export.html").read_text(encoding="utf-8")
    assert page.count("image/svg+xml") == 7  # test series; their reconstructions and samples by Keras and two files
    assert "standard deviations" in page


def test_contributions_sum_to_the_score_and_name_the_moment_and_the_sensor(series_vae, series_folder, file):
    x = windows(5, seed=7)
    x[2, 11, 1] += 0.2  # twenty standard deviations of the pressure
    exact = load(series_folder / "vae_float32.tflite")
    terms = series_vae.terms(x, IndexedNoise(seed_words(0), np.zeros(5, "int32")))
    standardised = (x - np.float32(LOCATION)) / np.float32(SCALE)
    entries = -np.asarray(series_vae.likelihood.base.entry_log_prob(terms.params[0], standardised))
    expected = entries + np.mean(np.log(SCALE)) + np.asarray(terms.rate)[:, None, None] / entries[0].size
    np.testing.assert_allclose(exact.explain(x), expected, rtol=1e-3, atol=1e-3)
    for model in (exact, file):
        found = model.explain(x)
        np.testing.assert_allclose(found.sum(axis=(1, 2)), model.score(x)["negative_elbo"], rtol=1e-4)
        assert np.unravel_index(found[2].argmax(), found[2].shape) == (11, 1)


class TestWatch:
    def test_readings_are_scores_of_the_newest_window(self, file):
        long = windows(3, seed=4).reshape(-1, 3)
        watch = file.watch()
        readings = [watch.push(sample) for sample in long]
        assert readings[: STEPS - 1] == [None] * (STEPS - 1)
        for number in (STEPS - 1, STEPS, 2 * STEPS - 1, 2 * STEPS, len(long) - 1):
            window = long[None, number + 1 - STEPS : number + 1]
            expected = file.score(window)["negative_elbo"]
            assert readings[number].score == pytest.approx(float(expected[0]), rel=1e-6)
            assert readings[number].p_value == file.p_value(expected)[0]

    def test_every_and_reset(self, file):
        watch = file.watch(every=5)
        due = [watch.push(sample) is not None for sample in windows(2, seed=4).reshape(-1, 3)]
        assert np.flatnonzero(due).tolist() == [19, 24, 29, 34, 39]
        watch.reset()
        assert [watch.push(sample) for sample in windows(1, seed=4)[0, :-1]] == [None] * (STEPS - 1)

    def test_an_alarm_begins_once(self, file):
        watch = file.watch(alpha=0.01)
        fault = windows(1, seed=5)[0]
        fault[:, 1] += 0.5  # fifty standard deviations
        readings = [watch.push(sample) for sample in [*windows(1, seed=5)[0], *fault]]
        alarms = [number for number, reading in enumerate(readings) if reading and reading.alarm]
        assert len(alarms) == 1
        assert STEPS <= alarms[0] < STEPS + 3

    def test_false_alarms_on_ordinary_windows_are_as_rare_as_promised(self, file):
        """400 separate windows: the number of alarms is binomial, with a probability of at most alpha."""
        watch = file.watch(every=STEPS, alpha=0.1)
        fresh = windows(400, seed=6).reshape(-1, 3)
        low = [reading.p_value <= watch.alpha for sample in fresh if (reading := watch.push(sample))]
        assert len(low) == 400
        # Beta-binomial: the rate itself varies by sqrt(0.1 · 0.9 / 200) between sets of 199 calibration scores.
        assert np.mean(low) < 0.1 + 4 * np.sqrt(0.09 / 400 + 0.09 / 200)
        assert np.mean(low) > 0.02

    def test_rate_of_false_alarms_in_a_day(self, file):
        """A sample in a minute and a score each 20 minutes are 72 scores in a day."""
        watch = file.watch(every=20, per_day=3.6)
        assert watch.alpha == pytest.approx(0.05)
        assert watch.per_day == pytest.approx(3.6)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"alpha": 0.001}, r"from 0.005, the smallest p-value of 199 calibration scores"),
            ({"per_day": 1.0}, "allow more false alarms, score less often"),
            ({"alpha": 0.1, "per_day": 2.0}, "replaces `alpha`"),
            ({"every": 0}, "every"),
        ],
    )
    def test_errors(self, file, options, message):
        with pytest.raises(ValueError, match=message):
            file.watch(**options)

    def test_a_sample_that_isnt_a_number_is_refused_and_not_added(self, file):
        watch = file.watch()
        with pytest.raises(ValueError, match="sample"):
            watch.push([1.0, np.nan, 2.0])
        readings = [watch.push(sample) for sample in windows(1, seed=4)[0]]
        assert readings[-1] is not None

    def test_command_without_the_package(self, series_folder, tmp_path):
        """The runtime next to the files reads a CSV file; its columns may have another order."""
        fault = windows(2, seed=5)
        fault[1, :, 1] += 0.5
        rows = [f"{number},{b},{a},{c}" for number, (a, b, c) in enumerate(fault.reshape(-1, 3))]
        rows.insert(10, "x,,1,2")
        (tmp_path / "stream.csv").write_text("\n".join(["time,pressure,temperature,current", *rows, *rows[-8:]]))
        command = [sys.executable, str(series_folder / "kvae_runtime.py"), str(series_folder / "vae_int8.tflite")]
        done = subprocess.run(
            [*command, "--watch", str(tmp_path / "stream.csv"), "--alarms-only"],
            capture_output=True, text=True, cwd=tmp_path, check=False,
        )  # fmt: skip
        assert done.returncode == 3, done.stderr
        assert "row 10: a value is missing" in done.stderr
        (line,) = done.stdout.splitlines()
        assert line.endswith("p 0.0050  ALARM")
