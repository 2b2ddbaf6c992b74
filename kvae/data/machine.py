"""A simulated machine: six coupled sensors, and faults to be found in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from kvae.data.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

SENSORS = ("load", "speed", "current", "temperature", "vibration", "pressure")
FAULTS = ("drift", "spike", "stuck", "coupling")
MINUTES = 24 * 60  # rows of a day
START = np.datetime64("2026-01-05T00:00", "s")  # a Monday
HEALTHY_DAYS = 2  # before the first fault


class MachineData(NamedTuple):
    """Sensor values, and which fault is present."""

    table: pd.DataFrame  # columns time and SENSORS, a row per minute
    fault: np.ndarray  # (N,) int64: 0 without a fault, otherwise 1 + index in FAULTS


def machine(days: int = 28, faults: Sequence[str] = (), seed: int = 0) -> MachineData:
    """Simulate a motor with a pump: a row per minute of six sensors, and optionally faults with known times.

    An operator changes the load every few hours, less at night and at the weekend. `speed` (rpm) follows the load
    within minutes. `current` (A) follows load and speed. `temperature` (°C) is a low-pass of the losses, current², over
    half an hour, above an ambient temperature with a daily cycle. `vibration` (mm/s) rises with the square of the
    speed, and has a resonance. `pressure` (bar) follows the square of the speed, five minutes late. Each sensor has
    autocorrelated and white noise. Every sensor can therefore be predicted from the others and from their past.

    Faults begin after two days, evenly spaced in the order given, and change one sensor or its relation to the others,
    within the values that the sensor has without a fault, except for spikes:

    * "drift": the temperature rises by 8 °C over 12 hours;
    * "spike": 10 single rows of the vibration are larger by 6 mm/s, over 6 hours;
    * "stuck": the pressure keeps its value for 6 hours;
    * "coupling": the current no longer follows the load for 12 hours, as after a broken belt.

    Args:
        days: length of the table, >= 1; with faults, at least 2 + 1 per fault.
        faults: names of the faults; a name may be repeated.
        seed: seed of load and noise. The same seed gives the same values with and without faults.

    Returns:
        The table, with `time` and the sensors, and the fault of each row.

    Raises:
        DataError: for an unknown fault, or too few days.

    Example:
        >>> healthy, faulty = machine(days=4), machine(days=4, faults=["stuck", "spike"])
        >>> faulty.table.shape, np.bincount(faulty.fault).tolist()
        ((5760, 7), [5390, 0, 10, 360])
        >>> bool(np.all(healthy.table["load"] == faulty.table["load"]))
        True
    """
    if unknown := [name for name in faults if name not in FAULTS]:
        raise DataError(f"Argument 'faults' must be names of {', '.join(FAULTS)}. Received: {unknown[0]!r}")
    least = HEALTHY_DAYS + len(faults) if faults else 1
    if days < least:
        raise DataError(f"Argument 'days' must be >= {least} with {len(faults)} faults. Received: {days}")
    import pandas as pd

    rng = np.random.default_rng(seed)
    count = days * MINUTES
    hour = np.arange(count) / 60
    values = _healthy(rng, hour)
    fault = np.zeros(count, np.int64)
    begin = HEALTHY_DAYS * MINUTES
    length = (count - begin) // max(1, len(faults))
    for number, name in enumerate(faults):
        _add_fault(values, fault, name, begin + number * length, rng)
    time = START + np.arange(count) * np.timedelta64(60, "s")
    return MachineData(pd.DataFrame({"time": time, **values}), fault)


def _healthy(rng: np.random.Generator, hour: np.ndarray) -> dict[str, np.ndarray]:
    """Return the values of the sensors at times in hours, (N,) each."""
    count = len(hour)

    def noise(white: float, slow: float) -> np.ndarray:
        return white * rng.standard_normal(count) + slow * _low_pass(rng.standard_normal(count), 20) * np.sqrt(40)

    changes = rng.random(count) < 1 / 180  # every three hours
    levels = rng.choice([0.3, 0.5, 0.7, 0.9], count)
    wanted = levels[np.maximum.accumulate(np.where(changes, np.arange(count), 0))]
    is_night = (hour % 24 < 6) | (hour % 168 >= 120)
    load = np.clip(_low_pass(np.where(is_night, 0.5 * wanted, wanted), 3) + noise(0.005, 0.01), 0.05, 1)
    speed = 600 + 900 * _low_pass(load, 4) + noise(2, 3)
    current = 4 + 16 * load * speed / 1500 + noise(0.1, 0.1)
    ambient = 20 + 4 * np.sin(2 * np.pi * (hour - 9) / 24)
    temperature = ambient + 0.12 * _low_pass(current**2, 30) + noise(0.1, 0.3)
    resonance = 1.5 * np.exp(-(((speed - 1050) / 60) ** 2))
    vibration = 0.5 + 2 * (speed / 1500) ** 2 + resonance + np.abs(noise(0.08, 0.05))
    pressure = 1 + 5 * (_low_pass(np.append(np.repeat(speed[0], 5), speed[:-5]), 2) / 1500) ** 2 + noise(0.02, 0.03)
    return dict(zip(SENSORS, (load, speed, current, temperature, vibration, pressure)))


def _low_pass(x: np.ndarray, minutes: float) -> np.ndarray:
    """Return an exponential mean over the past, y[t] = y[t − 1] + (x[t] − y[t − 1]) / minutes."""
    rate = 1 / minutes
    y = np.empty_like(x)
    last = float(x[0])
    for t, value in enumerate(x.tolist()):
        last += rate * (value - last)
        y[t] = last
    return y


def _add_fault(
    values: dict[str, np.ndarray], fault: np.ndarray, name: str, begin: int, rng: np.random.Generator
) -> None:
    """Change the values from the row `begin` on, and mark the rows."""
    hours = 12 if name in ("drift", "coupling") else 6
    rows = np.arange(begin, begin + hours * 60)
    if name == "drift":
        values["temperature"][rows] += 8 * (np.arange(len(rows)) + 1) / len(rows)
    elif name == "spike":
        rows = np.sort(rng.choice(rows, 10, replace=False))
        values["vibration"][rows] += 6
    elif name == "stuck":
        values["pressure"][rows] = values["pressure"][begin]
    else:
        values["current"][rows] = values["current"][rows].mean() + 0.1 * rng.standard_normal(len(rows))
    fault[rows] = 1 + FAULTS.index(name)
