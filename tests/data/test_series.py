"""Windows of series: grids, gaps, splits by time, scales, and what is left out, against loops over single rows."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest

import kvae
from kvae.data import DataError, DataWarning, SeriesSchema
from kvae.data.machine import FAULTS, HEALTHY_DAYS, MINUTES, SENSORS

START = pd.Timestamp("2026-01-01")


def frame_of(count=400, gaps=(), missing=(), machines=1, seed=0):
    """Return a table of rows one minute apart: noise a and b, with gaps before, and missing values in, rows."""
    rng = np.random.default_rng(seed)
    parts = []
    for machine in range(machines):
        minutes = np.arange(count) + np.isin(np.arange(count), gaps).cumsum() * 30
        values = rng.standard_normal((count, 2))
        values[list(missing), machine % 2] = np.nan
        table = {"time": START + pd.to_timedelta(minutes, "min"), "machine": f"m{machine}"}
        parts.append(pd.DataFrame({**table, "a": values[:, 0], "b": values[:, 1]}))
    return pd.concat(parts, ignore_index=True)


def load(source, **options):
    """Load, and return the data with the text of the only DataWarning, or ""."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        data = kvae.data.load(source, **options)
    messages = [str(warning.message) for warning in caught if warning.category is DataWarning]
    assert len(messages) <= 1
    assert "\n" not in "".join(messages)
    return data, "".join(messages)


def expected_windows(table, window, stride, validation=0.1, test=0.1):
    """Return the first rows of the windows of each split, row by row."""
    found = {"train": [], "validation": [], "test": []}
    minutes = table["time"].to_numpy("datetime64[m]").astype(int)
    complete = ~table[["a", "b"]].isna().any(axis=1).to_numpy()
    for machine in table["machine"].unique():
        rows = np.flatnonzero(table["machine"] == machine)
        low, high = rows[0], rows[-1] + 1
        cut = [
            low,
            high - round(len(rows) * validation) - round(len(rows) * test),
            high - round(len(rows) * test),
            high,
        ]
        begin = low  # of the stretch
        free = dict.fromkeys(found, low)
        for row in range(low, high):
            if not complete[row] or (row > low and (minutes[row] - minutes[row - 1] > 1 or not complete[row - 1])):
                begin = row
            if not complete[row] or (row - begin) % stride or row + window > high:
                continue
            inside = range(row, row + window)
            if not complete[inside].all() or np.any(np.diff(minutes[inside]) > 1):
                continue
            for split, first, last in zip(found, cut[:-1], cut[1:]):
                if row >= first and row + window <= last and row >= free[split]:
                    found[split].append(row)
                    free[split] = row + (1 if split == "train" else window)
    return found


#: table, and options of `load`
CASES = {
    "default stride": ({}, {"window": 16}),
    "stride 1": ({}, {"window": 10, "stride": 1}),
    "no overlap": ({}, {"window": 12, "stride": 12}),
    "stride beyond the window": ({}, {"window": 8, "stride": 11}),
    "a window of two": ({}, {"window": 2}),
    "gaps": ({"gaps": (37, 150, 155, 330)}, {"window": 12, "stride": 5}),
    "missing values": ({"missing": (0, 50, 51, 375)}, {"window": 12}),
    "gap at a boundary": ({"gaps": (320, 361)}, {"window": 10}),
    "both": ({"gaps": (101,), "missing": (95, 101, 340)}, {"window": 9, "stride": 2}),
    "three machines": ({"machines": 3, "gaps": (77,), "missing": (12,)}, {"window": 14, "stride": 3}),
    "fractions": ({}, {"window": 10, "validation_fraction": 0.3, "test_fraction": 0.05}),
    "no test split": ({}, {"window": 10, "validation_fraction": 0.25, "test_fraction": 0}),
}


@pytest.mark.parametrize("case", CASES)
def test_windows_are_those_of_a_loop_over_rows(case):
    table, options = frame_of(**CASES[case][0]), CASES[case][1]
    data, _ = load(table, time="time", series="machine", **options)
    window = options["window"]
    fractions = [options.get(f"{name}_fraction", 0.1) for name in ("validation", "test")]
    expected = expected_windows(table, window, options.get("stride") or max(1, window // 4), *fractions)
    rows_of_split = {}
    for split, starts in expected.items():
        assert data.counts[split] == len(starts)
        if not starts:
            continue
        rows = np.array(starts)[:, np.newaxis] + np.arange(window)
        ordered = data.in_order()
        np.testing.assert_array_equal(ordered.arrays(split)[0], table[["a", "b"]].to_numpy("float32")[rows])
        np.testing.assert_array_equal(ordered.times(split), table["time"].to_numpy("datetime64[ns]")[starts])
        rows_of_split[split] = set(rows.ravel().tolist())
        if split != "train":
            assert len(rows_of_split[split]) == rows.size  # no row is scored twice
    parts = list(rows_of_split.values())
    assert sum(map(len, parts)) == len(set().union(*parts))  # no row is in two splits


def test_splits_follow_each_other_in_time():
    data, _ = load(frame_of(), time="time", window=16)
    last = {name: data.times(name).max() + np.timedelta64(15, "m") for name in ("train", "validation")}
    assert last["train"] < data.times("validation").min()
    assert last["validation"] < data.times("test").min()


def test_scales_are_those_of_the_training_windows_only():
    table = frame_of(gaps=(100,), missing=(5,))
    table.loc[table.index[320:], ["a", "b"]] *= 1e3  # validation and test rows
    table.loc[table.index[100:102], "a"] = 1e5  # rows at a boundary of stretches
    data, _ = load(table, time="time", window=16, stride=40)
    rows = np.unique((np.array(expected_windows(table, 16, 40)["train"])[:, np.newaxis] + np.arange(16)).ravel())
    values = table[["a", "b"]].to_numpy()[rows]
    np.testing.assert_allclose(data.schema.location, values.mean(axis=0))
    np.testing.assert_allclose(data.schema.scale, values.std(axis=0))
    assert (data.schema.names, data.schema.step, data.schema.window, data.schema.stride) == (("a", "b"), 60.0, 16, 40)
    likelihood = data.schema.likelihood()
    assert likelihood.support == "real"
    np.testing.assert_allclose(likelihood.location, values.mean(axis=0))


def test_overlapping_windows_share_their_rows():
    data, _ = load(frame_of(), time="time", window=32, stride=1)
    memory = data.source.splits["train"].memory
    assert memory.tensor.shape == (400, 2)
    np.testing.assert_array_equal(memory[3:5], memory.images[3:5])


def changed(change):
    table = frame_of()
    return change(table) if change else table


#: change of the table, options, words of the warning, and the features
NOTICES = {
    "nothing": (None, {"time": "time", "series": "machine"}, "", "ab"),
    "text": (None, {"time": "time"}, r"columns left out: machine \(not numbers\)$", "ab"),
    "time not named": (None, {"series": "machine"}, r"time \(not numbers; time= reads it as the time\)", "ab"),
    "constant": (lambda t: t.assign(c=1.5), {}, r"c \(constant in training\)", "ab"),
    "constant in training": (lambda t: t.assign(c=np.arange(400) // 350), {}, r"c \(constant in training\)", "ab"),
    "empty": (lambda t: t.assign(c=np.nan), {}, r"c \(empty\)", "ab"),
    "numbered rows": (lambda t: t.assign(c=np.arange(400) * 3), {}, r"c \(an identifier\)", "ab"),
    "identifier": (lambda t: t.assign(part_id=np.arange(400) % 7), {}, r"part_id \(an identifier\)", "ab"),
    "true and false": (lambda t: t.assign(c=t["a"] > 0), {"columns": ["c", "b"]}, "", "cb"),
    "columns": (None, {"columns": ["b"]}, "", "b"),
    "unsorted": (lambda t: t.sample(frac=1, random_state=0), {"time": "time"}, r"; rows sorted by time$", "ab"),
    "twice": (
        lambda t: pd.concat([t, t.iloc[7:9]]), {"time": "time", "columns": ["a", "b"]},
        r"2 rows left out, because their time is that of an earlier row \(first: 2026-01-01 00:07:00; series= names",
        "ab",
    ),
    "gaps": (
        lambda t: t.drop(range(50, 80)).drop(200), {"time": "time", "columns": ["a", "b"]},
        r": 2 gaps in time, which no window crosses \(the longest: 1860 s after 2026-01-01 00:49:00; rows are 60 s",
        "ab",
    ),
    "missing": (
        lambda t: t.assign(a=t["a"].where(t["a"].index % 100 != 3)), {"columns": ["a", "b"]},
        r": 4 rows with missing values, which no window contains \(most in a\)$", "ab",
    ),
    "infinite": (
        lambda t: t.assign(a=t["a"].where(t["a"].index != 3, np.inf)), {"columns": ["a", "b"]},
        "1 row with missing", "ab",
    ),
    "a drift": (
        lambda t: t.assign(a=t["a"] + 3 * (t.index > 330)), {"columns": ["a", "b"]},
        r": features whose mean moves by more than 1 standard deviation after the training windows: a \(validation\), "
        r"a \(test\);",
        "ab",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NOTICES)
def test_what_is_left_out_is_named_in_one_warning(case):
    change, options, words, names = NOTICES[case]
    data, message = load(changed(change), window=16, **options)
    assert re.search(words, message)
    assert bool(message) == bool(words)
    assert data.schema.names == tuple(names)
    assert np.isfinite(data.arrays("train")[0]).all()


@pytest.mark.parametrize("kind", ["csv", "semicolons", "parquet", "index", "numbers", "shuffled"])
def test_every_form_of_a_table_gives_the_same_windows(kind, tmp_path):
    table = frame_of(gaps=(99,))[["time", "a", "b"]]
    source, options = table, {"time": "time"}
    if kind in ("csv", "semicolons"):
        source = tmp_path / "a.csv"
        table.to_csv(source, index=False, sep="," if kind == "csv" else ";")
    elif kind == "parquet":
        source = str(tmp_path / "a.parquet")
        table.to_parquet(source)
    elif kind == "index":
        source, options = table.set_index("time"), {}
    elif kind == "numbers":
        source = table.assign(time=(table["time"] - START) / pd.Timedelta(seconds=1))
    else:
        source = table.sample(frac=1, random_state=1)
    data, reference = (load(x, window=16, **o)[0] for x, o in ((source, options), (table, {"time": "time"})))
    for split in ("train", "validation", "test"):
        np.testing.assert_allclose(data.arrays(split)[0], reference.arrays(split)[0], rtol=1e-6)
        expected = reference.times(split)
        if kind == "numbers":
            expected = (expected - np.datetime64(START)) / np.timedelta64(1, "s")
        np.testing.assert_array_equal(data.times(split), expected)
    assert data.schema.step == 60.0
    assert data.path == (
        None
        if not isinstance(source, str) and kind not in ("csv", "semicolons")
        else tmp_path / f"a.{kind if kind == 'parquet' else 'csv'}"
    )


def test_times_with_time_zones_are_utc():
    table = frame_of().assign(time=lambda t: t["time"].dt.tz_localize("Europe/Berlin").astype(str))
    data, _ = load(table, time="time", series="machine", window=16)
    assert data.times("train").min() == np.datetime64("2025-12-31T23:00")


VALUES = np.random.default_rng(0).standard_normal((120, 8, 3))
LABELS = np.arange(120) % 3


def test_arrays_of_windows_have_seeded_stratified_splits(tmp_path):
    np.savez(tmp_path / "a.npz", x=VALUES, y=LABELS)
    for source in ((VALUES, LABELS), tmp_path / "a.npz"):
        data, _ = load(source, kind="series", seed=1)
        train, labels = data.arrays("train")
        assert (data.event_shape, data.counts) == ((8, 3), {"train": 96, "validation": 12, "test": 12})
        assert np.bincount(data.arrays("test")[1]).tolist() == [4, 4, 4]
        rows = data.source.splits["train"].rows
        np.testing.assert_array_equal(train, VALUES[rows].astype("float32"))
        np.testing.assert_array_equal(labels, LABELS[rows])
        np.testing.assert_allclose(data.schema.location, VALUES[rows].mean(axis=(0, 1)))
        assert (data.schema.names, data.schema.step) == (("feature 0", "feature 1", "feature 2"), None)
    missing = VALUES.copy()
    missing[5, 2, 1] = np.nan
    data, message = load((missing, LABELS), kind="series")
    assert "1 of 120 windows left out, with missing values" in message
    assert sum(data.counts.values()) == 119


def test_splits_of_an_archive_are_kept(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=VALUES[:100], y_train=LABELS[:100], x_test=VALUES[100:])
    with pytest.warns(DataWarning, match="no labels in the test split"):
        data = kvae.data.load(tmp_path / "a.npz", kind="series")
    np.testing.assert_array_equal(data.arrays("test")[0], VALUES[100:].astype("float32"))
    assert data.is_labelled("train")
    assert not data.is_labelled("test")


def test_a_long_array_is_cut_by_row_number(tmp_path):
    values = np.random.default_rng(0).standard_normal((200, 3))
    np.save(tmp_path / "a.npy", values)
    data, _ = load(tmp_path / "a.npy", window=10, stride=5)
    assert data.times("test").tolist() == [180, 190]
    np.testing.assert_array_equal(data.arrays("test")[0][1], values[190:].astype("float32"))


#: source, options, and words of the error
ERRORS = {
    "window": (frame_of(), {"window": 1}, "'window' must be an integer >= 2. Received: 1"),
    "stride": (frame_of(), {"window": 8, "stride": 0}, "'stride' must be an integer >= 1"),
    "no window": (frame_of(), {"kind": "series"}, "expected 'window'"),
    "stride of windows": (VALUES, {"kind": "series", "stride": 2}, "expected 'window' with 'stride'"),
    "too large a window": (frame_of(), {"window": 41}, "Received: 400 rows; none for validation and test"),
    "gaps everywhere": (
        frame_of(60, gaps=range(0, 60, 9)), {"window": 10, "time": "time"}, "60 rows; 6 gaps.*none for train",
    ),
    "a column": (frame_of(), {"window": 8, "columns": ["c"]}, r"'columns' to name.*\(time, machine, a, b\).*'c'"),
    "a text column": (frame_of(), {"window": 8, "columns": ["machine"]}, "to be columns of numbers. Received: machine"),
    "a constant column": (
        frame_of().assign(c=2), {"window": 8, "columns": ["a", "c"]}, "vary in the training windows. Received: c",
    ),
    "columns as text": (frame_of(), {"window": 8, "columns": "ab"}, "'columns' must be a list"),
    "a time column": (frame_of(), {"window": 8, "time": "when"}, "'time' to name columns.*'when'"),
    "no times": (
        frame_of().assign(machine="pump"), {"window": 8, "time": "machine"},
        "dates or numbers. Received: 'machine', such as 'pump'",
    ),
    "missing times": (
        frame_of().assign(time=lambda t: t["time"].where(t["a"].index != 3)), {"window": 8, "time": "time"},
        "a time in every row",
    ),
    "a series column": (frame_of(), {"window": 8, "series": "unit"}, "'series' to name columns"),
    "no numbers": (frame_of()[["time", "machine"]], {"window": 8}, r"columns of numbers. Received: time"),
    "large values": (
        frame_of().assign(a=lambda t: t["a"] + 1e9), {"window": 8, "columns": ["a", "b"]},
        r"float32 represents; subtract a constant.*Received: a, with mean 1e\+09",
    ),
    "beyond float32": (frame_of().assign(a=lambda t: t["a"] * 1e39), {"window": 8, "columns": ["a"]}, "float32"),
    "binarize": (frame_of(), {"window": 8, "binarize": "threshold"}, "'binarize' is for images; .*for series"),
    "size": (frame_of(), {"window": 8, "size": 16}, "'size' is for images"),
    "grayscale": (frame_of(), {"window": 8, "grayscale": True}, "'grayscale' is for images"),
    "value_range": (frame_of(), {"window": 8, "value_range": (0, 1)}, "'value_range' is for images"),
    "background": (VALUES, {"kind": "series", "background": "black"}, "'background' is for images"),
    "window of images": ("digits", {"window": 8}, "dataset, images. Received: kind='series'"),
    "columns of images": (np.zeros((20, 8, 8), np.uint8), {"columns": ["a"]}, "'columns' is for series or tables"),
    "time of an array": (VALUES[0], {"window": 2, "time": "t"}, "'time' with a table"),
    "windows of windows": (VALUES, {"window": 4}, r"long series \(T, F\).*\(120, 8, 3\)"),
    "flat array": (VALUES[0], {"kind": "series"}, r"windows \(N, T, F\)"),
    "labels of rows": ((VALUES[:, 0], LABELS), {"window": 8}, "without labels"),
    "images of a table": (frame_of(), {"kind": "images"}, "expected kind='series'"),
    "kind": (VALUES, {"kind": "sound"}, "'kind' must be one of"),
    "no file": ("nowhere.csv", {"window": 8}, "no such file or folder. Received: nowhere.csv"),
    "machine without a window": ("machine", {}, "expected 'window'"),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_line(case):
    source, options, words = ERRORS[case]
    with pytest.raises(DataError, match=words) as caught, warnings.catch_warnings(action="ignore"):
        kvae.data.load(source, **options)
    assert "\n" not in str(caught.value)


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"no table")
    (tmp_path / "b.csv").write_bytes(b"a,b\n1,2\n\xff,3\n")
    for name in ("a.parquet", "b.csv"):
        with pytest.raises(DataError, match=rf"{name}: expected a readable table. Received: \S"):
            kvae.data.load(tmp_path / name, window=4)


def test_times_require_a_long_series():
    with pytest.raises(DataError, match="windows of a long series"):
        kvae.data.load("digits").times("test")
    with pytest.raises(DataError, match="Unknown split"):
        load(frame_of(), window=8, series="machine", columns=["a"])[0].times("dev")


@pytest.mark.parametrize("machines", [1, 2])
def test_rows_that_are_added_are_the_split_new(machines):
    options = {"time": "time", "series": "machine", "window": 16}
    table = frame_of(600, machines=machines, gaps=(90,))
    table["number"] = table.groupby("machine").cumcount()
    before, _ = load(table[table["number"] < 400].drop(columns="number"), **options)
    grown, _ = load(table.drop(columns="number"), **options, schema=before.schema)
    assert not np.array_equal(grown.times("validation"), before.times("validation"))  # another division
    found = grown.with_splits(before.fingerprint())
    for split in ("train", "validation", "test"):
        np.testing.assert_array_equal(found.arrays(split)[0], before.arrays(split)[0])
        np.testing.assert_array_equal(found.times(split), before.times(split))
    new = found.times("new")
    assert new.min() > before.times("test").max() + np.timedelta64(15, "m")
    assert grown.changes(before.fingerprint()) == (dict.fromkeys(("train", "validation", "test"), 0), len(new))
    assert len(new) == machines * 12  # 200 rows and what the test split left over, in windows of 16
    again = found.with_splits(before.fingerprint())
    np.testing.assert_array_equal(again.times("new"), new)
    added = frame_of(100, seed=5).assign(machine="another")
    more, _ = load(pd.concat([table.drop(columns="number"), added]), **options, schema=before.schema)
    assert more.changes(before.fingerprint()).new == len(new) + 6


def test_the_same_table_has_no_changes():
    data, _ = load(frame_of(), time="time", window=16)
    again, _ = load(frame_of(), time="time", window=16)
    assert again.changes(data.fingerprint()) == (dict.fromkeys(("train", "validation", "test"), 0), 0)
    assert again.with_splits(data.fingerprint()) is again
    assert data.state(["test"]) == again.state(["test"])
    others = [load(frame_of(seed=1), time="time", window=16)[0], load(frame_of(), time="time", window=16, stride=5)[0]]
    assert data.state(["test"]) not in [other.state(["test"]) for other in others]


def test_a_schema_keeps_features_and_scales():
    schema = load(frame_of(), time="time", window=16, stride=3)[0].schema
    other = frame_of(seed=3)[["b", "time", "a"]].assign(a=7.0, c=lambda t: t["b"] ** 2)
    for given in (schema, schema.to_json()):
        data, message = load(other, time="time", schema=given)
        assert data.schema == schema
        assert message == ""
        assert np.all(data.arrays("train")[0][..., 0] == 7)
    assert SeriesSchema.from_json(schema.to_json()) == schema
    with pytest.raises(DataError, match=r"'columns' to name columns.*'b'"):
        kvae.data.load(other.drop(columns="b"), time="time", schema=schema)


def test_batches_are_the_arrays_in_another_order():
    data, _ = load(frame_of(), time="time", window=16, stride=2, batch_size=10)
    x = np.concatenate(list(data.train.as_numpy_iterator()))
    order = np.lexsort(x[:, 0].T)
    expected = data.arrays("train")[0]
    np.testing.assert_array_equal(x[order], expected[np.lexsort(expected[:, 0].T)])
    assert not np.array_equal(x, expected)
    numbers = np.concatenate([pairs for _, pairs in data.numbered("validation").as_numpy_iterator()])
    np.testing.assert_array_equal(data.source.times[numbers[:, 1]], data.times("validation"))
    first = data.times("train")[:40]  # a sample of all, in the same order for the same seed
    assert (first < np.median(data.times("train").astype(int)).astype("datetime64[ns]")).mean() == pytest.approx(
        0.5, abs=0.25
    )
    np.testing.assert_array_equal(load(frame_of(), time="time", window=16, stride=2)[0].times("train")[:40], first)


# The simulated machine.


def test_the_machine_is_the_same_with_and_without_faults():
    healthy, faulty = kvae.data.machine(7), kvae.data.machine(7, [*FAULTS, "spike"])
    pd.testing.assert_frame_equal(healthy.table, kvae.data.machine(7).table)
    assert not healthy.table["load"].equals(kvae.data.machine(7, seed=1).table["load"])
    assert not healthy.fault.any()
    assert not faulty.fault[: HEALTHY_DAYS * MINUTES].any()
    sensors = ["temperature", "vibration", "pressure", "current"]
    differs = {name: (healthy.table[name] != faulty.table[name]).to_numpy() for name in SENSORS}
    for code, name in enumerate(sensors, start=1):
        rows = differs.pop(name)
        inside = faulty.fault == code
        assert not np.any(rows & ~inside)
        assert rows[inside].mean() > 0.99
    assert not np.any(list(differs.values()))
    assert np.bincount(faulty.fault).tolist()[1:] == [720, 20, 360, 720]


def test_sensors_of_the_machine_depend_on_each_other():
    """A linear model of the other sensors, now and 30 minutes ago, explains most of each sensor."""
    values = kvae.data.machine(14).table[list(SENSORS)].to_numpy()
    values = (values - values.mean(axis=0)) / values.std(axis=0)
    half = len(values) // 2
    for sensor in range(len(SENSORS)):
        others = np.delete(values, sensor, axis=1)
        inputs = np.hstack([np.roll(others, lag, axis=0) for lag in (0, 5, 30)])[30:]
        target = values[30:, sensor]
        weights = np.linalg.lstsq(inputs[:half], target[:half], rcond=None)[0]
        rest = target[half:] - inputs[half:] @ weights
        assert 1e-4 < rest.var() / target[half:].var() < 0.6, SENSORS[sensor]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((0,), "'days' must be >= 1"), ((2, ["drift"]), "'days' must be >= 3"), ((9, ["rust"]), "Received: 'rust'")],
)
def test_the_machine_refuses_other_arguments(arguments, words):
    with pytest.raises(DataError, match=words):
        kvae.data.machine(*arguments)
