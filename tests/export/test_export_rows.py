"""Files of a model of a table: records in, nats and records out, with missing values and the names of categories."""

import json

import numpy as np
import pandas as pd
import pytest

import kvae
from kvae.data.tables import TableSchema
from kvae.export import ExportError, export, web
from kvae.export.runtime import load
from kvae.networks import MLP, Decoder, Encoder


def people(count, seed):
    """Return rows with a number that depends on a category, a count, a truth value and a date; some are missing."""
    rng = np.random.default_rng(seed)
    city = rng.choice(["Oslo", "Paris", "Rome"], count)
    frame = pd.DataFrame(
        {
            "income": 1000 * (20 + 30 * (city == "Paris")) + rng.normal(0, 2000, count).round(),
            "visits": rng.poisson(4, count) * rng.integers(0, 8, count),
            "member": rng.random(count) < 0.3,
            "city": city,
            "joined": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 900, count), "D"),
        }
    )
    frame.loc[rng.random(count) < 0.1, "income"] = np.nan
    frame.loc[rng.random(count) < 0.1, "city"] = None
    return frame


@pytest.fixture(scope="module")
def table():
    """Return a trained VAE of a table and its schema."""
    frame = people(400, seed=0)
    schema = TableSchema.infer(frame)
    width = len(schema.columns)
    vae = kvae.VAE(
        Encoder(2, MLP((32,))), Decoder((width,), MLP((32,))), likelihood=schema.likelihood(components=3), bounded=False
    )
    vae.compile("adam")
    vae.fit(schema.encode(frame), epochs=5, batch_size=40, verbose=0)
    return vae, schema


@pytest.fixture(scope="module")
def folder(table, tmp_path_factory):
    vae, schema = table
    folder = tmp_path_factory.mktemp("rows")
    test, validation = (schema.encode(people(200, seed)) for seed in (1, 2))
    report = export(vae, folder, test, validation=validation, precisions=("float32", "int8"), batch_sizes=(1, 16))
    assert not report["refused"]
    assert "NaN" not in json.dumps(report)
    return folder


@pytest.fixture(scope="module", params=["float32", "int8"])
def file(request, folder):
    return load(folder / f"vae_{request.param}.tflite")


def test_scores_equal_keras_with_missing_values(table, file):
    _, schema = table
    x = schema.encode(people(60, seed=3))
    assert np.isnan(x).any()
    scores = file.score(x)["negative_elbo"]
    tolerance = 0.01 if "float32" in file.path.name else 0.5
    exact = load(file.path.with_name("vae_float32.tflite")).score(x)["negative_elbo"]
    np.testing.assert_allclose(scores, exact, atol=tolerance)
    assert np.all((file.p_value(scores) > 0) & (file.p_value(scores) <= 1))
    found = file.explain(x)
    np.testing.assert_allclose(found.sum(axis=1), scores, rtol=1e-4, atol=1e-3)
    assert (np.abs(found[np.isnan(x)]) < np.abs(found[~np.isnan(x)]).max()).all()  # only their share of the rate


def test_records(table, file):
    _, schema = table
    frame = people(20, seed=4)
    records = json.loads(frame.assign(joined=frame["joined"].dt.strftime("%Y-%m-%d")).to_json(orient="records"))
    rows = file.rows(records)
    np.testing.assert_array_equal(rows, schema.encode(frame))
    back = pd.DataFrame(file.records(rows))
    assert back["city"].where(back["city"].notna(), None).tolist() == frame["city"].tolist()
    assert back["visits"].tolist() == np.clip(frame["visits"], 0, schema.columns[1].high).astype(int).tolist()
    assert back["joined"].str[:10].tolist() == frame["joined"].dt.strftime("%Y-%m-%d").tolist()
    assert np.isnan(file.rows([{}])).all()
    generated = file.records(file.generate(5, seed=1))
    assert {record["city"] for record in generated} <= {"Oslo", "Paris", "Rome"}
    assert file.self_test()["score_1"] >= 0


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"city": "Athens"}, r"one of Oslo, Paris, Rome for the column 'city'. Received: 'Athens'"),
        ({"member": 2}, "True or False"),
        ({"visits": -1}, "a number >= 0"),
        ({"income": "much"}, "a number for the column 'income'"),
        ({"joined": "yesterday"}, "2024-12-31"),
    ],
)
def test_values_that_dont_fit(folder, record, message):
    with pytest.raises(ValueError, match=message):
        load(folder / "vae_int8.tflite").rows([record])


def test_infinity_is_no_missing_value(folder):
    with pytest.raises(ValueError, match="finite"):
        load(folder / "vae_int8.tflite").score(np.full((1, 5), np.inf))


def test_what_is_for_images_and_series(folder, series_folder, tmp_path):
    with pytest.raises(ExportError, match="images or series"):
        web.write(folder / "vae_int8.tflite", tmp_path / "page")
    with pytest.raises(ValueError, match=r"model of series \(T, F\)"):
        load(folder / "vae_int8.tflite").watch()
    with pytest.raises(ValueError, match="model of a table"):
        load(series_folder / "vae_int8.tflite").rows([{}])
