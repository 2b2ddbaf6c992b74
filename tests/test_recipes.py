"""Recipes: short, with a source, and models that train."""

import inspect
import re

import keras
import numpy as np
import pytest

from kvae import recipes

IMAGES = np.random.default_rng(0).integers(0, 2, (16, 8, 8, 1)).astype("float32")
LABELS = np.arange(16) % 10


def build(name):
    recipe = getattr(recipes, name)
    wanted = inspect.signature(recipe).parameters
    return recipe(IMAGES.shape[1:], **({"images": IMAGES} if "images" in wanted else {}))


@pytest.mark.parametrize("name", recipes.__all__)
def test_recipe_is_short_and_has_a_source(name):
    recipe = getattr(recipes, name)
    body = inspect.getsource(recipe).split("\n", 1)[1].strip().splitlines()  # without the decorator
    assert len([line for line in body if line.strip()]) <= 15
    assert re.search(r"(https://|arXiv:|NeurIPS|§)", recipe.__doc__)
    assert re.search(r"\b(19|20)\d\d\b", recipe.__doc__)


@pytest.mark.parametrize("name", recipes.__all__)
def test_recipe_round_trip_and_terms(name):
    model = build(name)
    again = type(model).from_config(model.get_config())
    assert [weight.shape for weight in again.weights] == [weight.shape for weight in model.weights]
    c = model.condition(LABELS) if model.condition_dim else None
    values = model.terms(keras.ops.convert_to_tensor(IMAGES), model.noise(0), model.objective.num_samples, c=c)
    assert np.all(np.isfinite(values.log_weight))
    assert model.sample(2, seed=0, condition=3 if model.condition_dim else None).shape == (2, 8, 8, 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", recipes.__all__)
def test_recipe_trains(name):
    model = build(name)
    model.compile("adam")
    history = model.fit(IMAGES, LABELS, epochs=2, batch_size=8, verbose=0)
    assert np.all(np.isfinite(history.history["loss"]))
