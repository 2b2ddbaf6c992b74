"""Windows of three sensors, for tests of files of series."""

import numpy as np

STEPS, SENSORS = 20, ("temperature", "pressure", "current")
LOCATION, SCALE = (20.0, 1000.0, -5.0), (1.0, 0.01, 100.0)


class Schema:
    """The parts of a schema that a file needs for rates of alarms."""

    @staticmethod
    def to_json():
        return {"kind": "series", "names": list(SENSORS), "step": 60.0}


def windows(count, seed):
    """Return sines of random phase with noise, in units of three sensors: `(count, STEPS, 3)`."""
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 6, (count, 1, 1))
    x = np.sin(0.4 * np.arange(STEPS)[:, None] + phase + np.arange(3)) + 0.1 * rng.normal(size=(count, STEPS, 3))
    return (np.array(LOCATION) + np.array(SCALE) * x).astype("float32")
