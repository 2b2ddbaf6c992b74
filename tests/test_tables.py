"""Tables of mixed types: schema, source, and `TableVAE` on rows of a known distribution."""

import datetime
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp
from sklearn.base import clone

import kvae
from kvae.data import DataError, DataWarning
from kvae.data.splits import Request
from kvae.data.tables import TableSchema, load_table, read, table
from kvae.distributions import IndexedNoise
from kvae.features import TableVAE

RNG = np.random.default_rng(0)


def people(count=200, seed=0):
    """Return a table with every kind of column, in which some values are missing."""
    rng = np.random.default_rng(seed)
    days = [pd.to_timedelta(rng.integers(0, 1000, count), unit="D") for _ in range(3)]
    frame = pd.DataFrame({
        "age": rng.integers(18, 90, count),
        "income": np.round(rng.normal(3000, 800, count), 1),
        "weight": rng.normal(70, 9, count).astype("float32"),
        "children": rng.integers(0, 5, count),
        "visits": rng.poisson(rng.gamma(1, 6, count)),
        "city": rng.choice(["Oslo", "Paris", "Rome"], count),
        "zip": rng.choice([10115, 75001, 20095], count),
        "member": rng.random(count) < 0.3,
        "flag": rng.integers(0, 2, count),
        "size": pd.Categorical(rng.choice(["S", "M", "L"], count), ["S", "M", "L", "XL"], ordered=True),
        "since": pd.Timestamp("2020-01-01") + days[0],
        "seen": pd.Timestamp("2020-01-01", tz="Europe/Oslo") + pd.to_timedelta(rng.integers(0, 10**6, count), unit="s"),
        "text date": [str(day.date()) for day in pd.Timestamp("2020-01-01") + days[1]],
        "born": [day.date() for day in pd.Timestamp("1960-01-01") + days[2]],
        "points": pd.array(rng.integers(0, 3000, count), dtype="Int64"),
    })  # fmt: skip
    for step, name in enumerate(("income", "city", "since", "text date", "born", "points"), start=5):
        frame.loc[::step, name] = None
    return frame


TYPES = {
    "age": "number", "income": "number", "weight": "number", "children": "category", "visits": "count",
    "city": "category", "zip": "category", "member": "boolean", "flag": "boolean", "size": "category", "since": "date",
    "seen": "date", "text date": "date", "born": "date", "points": "number",
}  # fmt: skip


def test_types_and_values_survive():
    frame = people()
    schema = TableSchema.infer(frame)
    assert {column.name: column.type for column in schema.columns} == TYPES
    encoded = schema.encode(frame)
    assert encoded.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(encoded), frame.isna())
    pd.testing.assert_frame_equal(
        schema.decode(encoded), frame.assign(size=frame["size"].cat.remove_unused_categories())
    )
    again = TableSchema.from_json(json.loads(json.dumps(schema.likelihood().describe())))
    assert again.columns == schema.columns
    assert [column.missing for column in schema.columns] == frame.isna().any().tolist()


def test_encoded_values():
    frame = people()
    schema = TableSchema.infer(frame)
    row = dict(zip(schema.names, schema.encode(frame)[1]))
    first = frame.iloc[1]
    since = (first["since"] - frame["since"].min()).days
    assert (row["city"], row["since"]) == (["Oslo", "Paris", "Rome"].index(first["city"]), since)
    assert (row["seen"], row["zip"]) == (
        pytest.approx((first["seen"] - frame["seen"].min()).total_seconds()),
        [10115, 20095, 75001].index(first["zip"]),
    )
    column = schema.columns[schema.names.index("visits")]
    assert column.location == pytest.approx(np.log1p(frame["visits"]).mean())
    assert column.scale == pytest.approx(np.log1p(frame["visits"]).std(ddof=0))


def test_decoded_values_are_rounded_and_limited():
    frame = people()
    schema = TableSchema.infer(frame)
    far = schema.decode(np.stack([np.full(len(schema.names), -1e9), np.full(len(schema.names), 1e9)]))
    assert dict(far.dtypes) == dict(frame.assign(size=far["size"]).dtypes)
    for name in ("age", "income", "visits", "since", "seen", "born", "points"):
        assert far[name].tolist() == [0 if name == "visits" else frame[name].dropna().min(), frame[name].dropna().max()]
    middle = schema.decode(np.full((1, len(schema.names)), 1.4))
    assert (middle["city"][0], middle["children"][0], middle["visits"][0]) == ("Paris", 1, 1)
    gone = schema.decode(np.full((2, len(schema.names)), np.nan))
    assert gone.isna().all(axis=None)


COLUMNS = {
    "constant": ([1] * 40, "constant"),
    "nothing": ([None] * 40, "constant"),
    "text": ([f"u{i}" for i in range(40)], "text or an identifier"),
    "rows": (range(40), "identifier"),
    "falling": (range(40, 0, -1), "identifier"),
}


def test_columns_that_say_nothing_are_left_out_with_one_warning():
    frame = pd.DataFrame({"x": RNG.normal(size=40), **{name: [*values] for name, (values, _) in COLUMNS.items()}})
    with pytest.warns(DataWarning, match="5 of 6 columns left out") as found:
        schema = TableSchema.infer(frame)
    assert len(found) == 1
    assert schema.names == ("x",)
    assert schema.dropped == {name: reason for name, (_, reason) in COLUMNS.items()}
    kept = TableSchema.infer(frame[["x", "rows", "text"]], types={"rows": "number", "text": "category"})
    assert [column.type for column in kept.columns] == ["number", "number", "category"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (RNG.normal(size=60), "number"),
        (RNG.integers(0, 11, 60) * 1.0, "category"),
        (np.where(RNG.random(60) < 0.2, np.nan, RNG.integers(0, 3, 60)), "category"),
        (np.where(RNG.random(60) < 0.2, np.nan, RNG.integers(0, 2, 60)), "boolean"),
        (RNG.integers(100, 200, 60), "number"),  # far from 0
        (np.r_[0, RNG.integers(1000, 5000, 59)], "number"),  # larger than a count
        (np.r_[0, 0, RNG.poisson(RNG.gamma(1, 20, 58))], "count"),
        (RNG.choice(["yes", "no"], 60), "category"),
        (["2024-01-01 10:00:00"] * 30 + ["2024-06-01 11:00:00"] * 30, "date"),
        (["2024-01-01 10:00:00"] * 30 + ["tomorrow"] * 30, "category"),
        ([datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)] * 30, "date"),
        ([True, False, None] * 20, "boolean"),
    ],
)
def test_inferred_types(values, kind):
    values = values if not isinstance(values, np.ndarray) or len(np.unique(values)) != 11 else values[values < 10]
    assert TableSchema.infer(pd.DataFrame({"x": values})).columns[0].type == kind


def test_values_that_training_rows_lack_are_missing():
    train = pd.DataFrame({"city": ["Oslo", "Rome"] * 9, "flag": [0, 1] * 9, "visits": [0, 40, *range(16)]})
    schema = TableSchema.infer(train)
    new = pd.DataFrame({"city": ["Lima", "Rome", None], "flag": [1, 2, 0], "visits": [-3, 4, 100]})
    with pytest.warns(DataWarning, match=re.escape("city=Lima, flag=2, visits=-3")) as found:
        encoded = schema.encode(new)
    assert len(found) == 1
    np.testing.assert_array_equal(encoded, np.array([[np.nan, 1, np.nan], [1, np.nan, 4], [np.nan, 0, 100]], "float32"))
    np.testing.assert_array_equal(np.isnan(schema.encode(new[["flag"]].iloc[:1])), [[True, False, True]])


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: TableSchema.infer(people(), {"age": "text"}), "the types number, .*Received: 'text' for 'age'"),
        (lambda: TableSchema.infer(people(), {"Age": "number"}), "names of columns: age, .*Received: 'Age'"),
        (lambda: TableSchema.infer(people(), {"city": "number"}), "Expected numbers in the column 'city'"),
        (lambda: TableSchema.infer(people(), {"city": "date"}), "Expected dates in the column 'city'"),
        (lambda: TableSchema.infer(np.zeros((3, 2))), "pandas.DataFrame. Received: ndarray"),
        (lambda: TableSchema.infer(people()[["age", "age"]]), "different names. Received: age"),
        (lambda: TableSchema.infer(people()).encode(pd.DataFrame({"x": [1]})), "with the columns age, .*Received: x"),
        (lambda: TableSchema.infer(people()).decode(np.zeros((2, 3))), r"15 columns. Received: shape \(2, 3\)"),
        (lambda: read("table.xlsx"), r"ends in .csv, .tsv, .parquet. Received: table.xlsx"),
        (lambda: read("nowhere.csv"), "nowhere.csv: expected a readable table"),
        (lambda: load_table(people(), label="Age"), "a column 'Age' of labels"),
    ],
)
@pytest.mark.filterwarnings("ignore:Could not infer format")
def test_errors(run, message):
    with pytest.raises(DataError, match=message):
        run()


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet"])
def test_files(tmp_path, suffix):
    frame = people()[["age", "income", "city", "text date", "member"]]
    path = tmp_path / f"people{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ";")
    pd.testing.assert_frame_equal(read(path), frame)
    found, expected = load_table(path, seed=3), load_table(frame, seed=3)
    np.testing.assert_array_equal(found.arrays("train")[0], expected.arrays("train")[0])
    assert (found.name, found.path, expected.path) == ("people", path, None)


def test_source_of_a_table():
    frame = people(100)
    data = load_table(frame, label="city", batch_size=16, types={"children": "number", "city": "category"})
    assert (data.num_train, data.num_validation, data.num_test, data.event_shape) == (80, 10, 10, (14,))
    assert data.label_names == ("Oslo", "Paris", "Rome")
    rows, labels = data.arrays("train")
    numbers = np.concatenate([pairs[:, 1] for _, pairs in data.numbered("train").as_numpy_iterator()])
    pd.testing.assert_series_equal(data.schema.decode(rows)["age"], frame["age"].iloc[numbers].reset_index(drop=True))
    cities = frame["city"].iloc[numbers].to_numpy()
    assert [data.label_names[k] if k >= 0 else None for k in labels] == [None if pd.isna(c) else c for c in cities]
    assert (
        data.schema.columns
        == TableSchema.infer(frame.drop(columns="city").iloc[np.sort(numbers)], {"children": "number"}).columns
    )
    assert next(iter(data.train)).shape == (16, 14)


def test_splits_of_a_run_are_found_in_a_longer_table():
    frame = people(100)
    before = load_table(frame)
    longer = pd.concat([people(20, seed=1).assign(city="Lima"), frame])
    request = Request(schema=before.schema)
    with pytest.warns(DataWarning, match="city=Lima"):
        source = table(longer, request)
    assert source.schema is before.schema
    after = kvae.data.Data.__new__(kvae.data.Data)
    after.__dict__.update(before.__dict__, source=source)
    again = after.with_splits(before.fingerprint())
    np.testing.assert_array_equal(again.arrays("test")[0], before.arrays("test")[0])
    assert len(again.arrays("new")[0]) == 20


# A distribution of which everything is known: a season, and a normal temperature and a Poisson count that depend on it.

MEANS, DAYS = {"summer": 25.0, "winter": 5.0}, {"summer": 12.0, "winter": 2.0}


def weather(count, seed, missing=0.0):
    rng = np.random.default_rng(seed)
    season = rng.choice([*MEANS], count)
    frame = pd.DataFrame({
        "degrees": np.round([rng.normal(MEANS[name], 2) for name in season], 1),
        "season": season,
        "sunny days": [rng.poisson(rng.gamma(20, DAYS[name] / 20)) for name in season],
    })  # fmt: skip
    return frame.mask(rng.random(frame.shape) < missing)


@pytest.fixture(scope="module")
def fitted():
    return TableVAE(latent_dim=2, units=(32,), epochs=100, learning_rate=1e-2, random_state=0).fit(
        weather(600, 0, missing=0.2)
    )


def test_synthetic_rows_have_the_distribution_of_the_training_rows(fitted):
    rows, truth = fitted.sample(2000, seed=0), weather(2000, 1)
    assert dict(rows.dtypes) == {"degrees": "float64", "season": truth["season"].dtype, "sunny days": "float64"}
    assert rows["degrees"].between(truth["degrees"].min() - 3, truth["degrees"].max() + 3).all()
    assert rows["season"].value_counts(normalize=True)["summer"] == pytest.approx(0.5, abs=0.1)
    for name in MEANS:
        part, expected = (frame[frame["season"] == name] for frame in (rows, truth))
        assert part["degrees"].median() == pytest.approx(expected["degrees"].median(), abs=1.5)
        assert part["sunny days"].median() == pytest.approx(expected["sunny days"].median(), abs=2.5)
    assert rows.drop(columns="season").corr().iloc[0, 1] == pytest.approx(
        truth.drop(columns="season").corr().iloc[0, 1], abs=0.2
    )


def test_rows_depend_only_on_the_seed(fitted):
    for conditions in (None, {"season": "summer"}):
        first, again, longer, other = (
            fitted.sample(n, seed, conditions) for n, seed in ((5, 1), (5, 1), (70, 1), (5, 2))
        )
        pd.testing.assert_frame_equal(first, again)
        pd.testing.assert_frame_equal(first, longer.head(5))
        assert not first.equals(other)


def test_conditional_rows(fitted):
    winter = fitted.sample(300, seed=0, conditions={"season": "winter"})
    assert set(winter["season"]) == {"winter"}
    assert winter["degrees"].median() == pytest.approx(5, abs=1.5)
    warm = fitted.sample(300, seed=0, conditions={"degrees": 24.0, "sunny days": 11})
    assert set(warm["degrees"]) == {24.0}
    assert (warm["season"] == "summer").mean() > 0.95


def test_missing_values_are_filled_with_their_expectation(fitted):
    given = pd.DataFrame({"degrees": [None, 4.0, None], "season": ["winter", None, None], "sunny days": [None, 1, 12]},
                         index=[7, 8, 9])  # fmt: skip
    filled, uncertainty = fitted.impute(given, return_std=True)
    assert [*filled.index] == [*uncertainty.index] == [7, 8, 9]
    assert filled["season"].tolist() == ["winter", "winter", "summer"]
    np.testing.assert_allclose(filled["degrees"], [5, 4, 25], atol=1.5)
    assert filled.loc[7, "sunny days"] == pytest.approx(2, abs=1)
    np.testing.assert_array_equal(uncertainty == 0, given.notna())
    assert 1 < uncertainty.loc[7, "degrees"] < 5
    assert uncertainty.loc[8, "season"] < 0.1


def test_draws_of_missing_values_have_the_reported_uncertainty(fitted):
    given = pd.DataFrame({"degrees": [None] * 300, "season": ["winter"] * 300})
    filled, uncertainty = fitted.impute(given, return_std=True)
    draws = fitted.impute(given, draws=2, seed=1)
    assert not draws[0].equals(draws[1])
    for draw in draws:
        assert draw["degrees"].mean() == pytest.approx(filled["degrees"][0], abs=0.7)
        assert draw["degrees"].std() == pytest.approx(uncertainty["degrees"][0], rel=0.3)


def test_the_result_of_a_row_is_independent_of_other_rows(fitted):
    frame = weather(70, 5, missing=0.4)
    pd.testing.assert_frame_equal(fitted.impute(frame).tail(3), fitted.impute(frame.tail(3)))
    np.testing.assert_array_equal(fitted.score_samples(frame)[-3:], fitted.score_samples(frame.tail(3)))
    np.testing.assert_array_equal(fitted.transform(frame)[-3:], fitted.transform(frame.tail(3)))


def test_likelihood_of_observed_values(fitted):
    """The likelihood of a season alone is its share, and that of a temperature a mixture of two normal densities."""
    found = fitted.score_samples(pd.DataFrame({"season": ["summer", "winter"]}))
    np.testing.assert_allclose(np.exp(found), 0.5, atol=0.1)
    degrees = np.array([3.0, 6.0, 24.0, 27.0])
    expected = logsumexp([-0.5 * ((degrees - mean) / 2) ** 2 for mean in MEANS.values()], axis=0)
    expected = expected - np.log(2 * 2 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(fitted.score_samples(pd.DataFrame({"degrees": degrees})), expected, atol=0.6)
    assert fitted.score(weather(100, 2)) > fitted.score(weather(100, 2).assign(degrees=15.0)) + 2


def test_columns_explain_the_score_of_a_row(fitted):
    frame = pd.DataFrame({"degrees": [25.0, 25.0], "season": ["summer", "winter"], "sunny days": [12, None]})
    by_column = fitted.score_columns(frame)
    assert by_column.isna().to_numpy().tolist() == [[False] * 3, [False, False, True]]
    assert by_column.loc[1, "season"] < by_column.loc[0, "season"] - 1


def test_the_model_file_contains_the_schema(fitted, tmp_path):
    fitted.save(tmp_path / "weather.keras")
    for again in (TableVAE.load(tmp_path / "weather.keras"), pickle.loads(pickle.dumps(fitted))):
        assert again.schema_.columns == fitted.schema_.columns
        pd.testing.assert_frame_equal(again.sample(5, seed=3), fitted.sample(5, seed=3))
    frame = weather(5, 3, missing=0.5)
    pd.testing.assert_frame_equal(again.impute(frame), fitted.impute(frame))
    kvae.VAE(latent_dim=2, image_shape=(8, 8, 1)).save(tmp_path / "images.keras")
    with pytest.raises(ValueError, match="VAE with the likelihood Columns"):
        TableVAE.load(tmp_path / "images.keras")


def test_training_is_reproducible_and_hides_values():
    frame = weather(60, 0)
    settings = {"latent_dim": 2, "units": (8,), "epochs": 2, "random_state": 1}
    first, again, complete = (
        TableVAE(**settings, **more).fit(frame) for more in ({}, {}, {"hidden": 0, "objective": kvae.objectives.ELBO()})
    )
    assert first.history_ == again.history_
    assert first.model_.likelihood.standardized_shape((3,)) == (1 + 2 + 1 + 3,)
    assert complete.model_.likelihood.standardized_shape((3,)) == (1 + 2 + 1,)
    assert len(first.history_["nll"]) == 2
    assert "nll" not in complete.history_
    assert clone(complete).get_params()["hidden"] == 0


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda vae: TableVAE(hidden=2.0).fit(weather(20, 0)), "`hidden` must be from 0 to 1"),
        (lambda vae: TableVAE(components=0).fit(weather(20, 0)), "`components` must be an integer >= 1"),
        (lambda vae: TableVAE(image_shape=(8, 8, 1)).fit(weather(20, 0)), "`image_shape` must be None"),
        (lambda vae: TableVAE().fit(np.zeros((3, 2))), "pandas.DataFrame"),
        (lambda vae: vae.sample(0), "`n` must be an integer >= 1"),
        (lambda vae: vae.sample(1, conditions={"city": "Oslo"}), "degrees, season, sunny days. Received: 'city'"),
        (lambda vae: vae.sample(1, conditions={"season": "spring"}), "such as summer, winter. Received: 'spring'"),
        (lambda vae: vae.impute(weather(3, 0), draws=0), "`draws` must be an integer >= 1"),
    ],
)
def test_refusals(fitted, run, message):
    with pytest.raises(ValueError, match=message):
        run(fitted)


@pytest.mark.slow
def test_exported_signatures_take_raw_rows_with_missing_values(fitted, tmp_path):
    """They are converted to built-in operators of LiteRT."""
    from ai_edge_litert.interpreter import Interpreter

    from kvae.export import litert, saved_model
    from kvae.export.endpoints import signatures_of
    from kvae.export.runtime import seed_words

    model = fitted.model_
    signatures = signatures_of(model, ["encode", "reconstruct", "generate", "score"], (4,), "float32")
    saved_model.write(model, tmp_path, b"{}", saved_model.trace(model, signatures))
    interpreter = Interpreter(model_content=litert.convert(tmp_path, [signature.name for signature in signatures]))
    rows = fitted.schema_.encode(weather(4, 4, missing=0.3))
    assert np.isnan(rows).any()
    noise = {"seed": seed_words(7), "index": np.arange(4, dtype="int32")}
    terms = model.terms(rows, IndexedNoise(*noise.values()))
    expected = {
        "encode": ({"image": rows}, {"mean": model.encode(rows).mean}),
        "reconstruct": ({"image": rows}, {"reconstruction": model.reconstruct(rows)}),
        "generate": ({**noise, "temperature": np.ones(1, "float32")}, {"image": model.generate(4, seed=7)}),
        "score": ({"image": rows, **noise}, {"distortion": terms.distortion[0]}),
    }  # fmt: skip
    for name, (inputs, outputs) in expected.items():
        found = interpreter.get_signature_runner(f"{name}_4")(**inputs)
        for output, values in outputs.items():
            np.testing.assert_allclose(found[output], values, rtol=1e-4, atol=1e-3, err_msg=name)


@pytest.mark.slow
def test_the_examples_of_the_documentation_run(tmp_path, monkeypatch, capsys):
    page = Path(__file__).resolve().parent.parent / "docs" / "tables.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    exec("\n".join(blocks), {})
    assert "('visits', 'count')" in capsys.readouterr().out
    assert (tmp_path / "people.keras").is_file()
