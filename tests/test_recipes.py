"""Recipes: short, with a source, and models that train."""

import inspect
import math
import re

import keras
import numpy as np
import pytest

import kvae
from kvae import recipes
from kvae.run import RunFolder
from kvae.training import Settings, fit
from kvae.training.parts import model_of

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
    assert model.generate(2, seed=0, condition=3 if model.condition_dim else None).shape == (2, 8, 8, 1)


# The defining property of each recipe's saved model.

#: epochs, and the condition on the test images' values, the history and the kept epoch
PROMISES = {
    "beta_vae": (8, lambda test, history, kept: test["rate"] < 3),
    "warmup_vae": (8, lambda test, history, kept: kept > 1),
    "cyclical_vae": (8, lambda test, history, kept: kept >= 7),
    "free_bits": (15, lambda test, history, kept: kept == 15 and test["rate"] > 0.9 * 16 * 0.1),
    "capacity_vae": (15, lambda test, history, kept: kept > 7 and abs(test["rate"] - 25) < 2.5),
    "control_vae": (30, lambda test, history, kept: 10.5 < test["rate"] < 19.5),
    "wae_mmd": (8, lambda test, history, kept: kept == 8 and test["distortion"] < history["val_distortion"][0]),
    "info_vae": (8, lambda test, history, kept: kept == 8 and test["distortion"] < history["val_distortion"][0]),
    "beta_tc_vae": (8, lambda test, history, kept: kept == 8),
    "dip_vae": (8, lambda test, history, kept: kept == 8),
}


#: recipes that are trained here: those with a property, with settings of their own, or with a criterion of their own.
#: The others are parts that tests/test_parts.py trains.
TRAINED = [name for name in recipes.__all__ if name in {*PROMISES, "ciwae"} or getattr(recipes, name).settings]


@pytest.fixture(scope="module")
def few(digits):
    """A few images, for recipes without a property of their own: only the saved epoch is tested."""
    images, labels = digits
    return kvae.data.load((images[:400], labels[:400]), batch_size=100)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly` option is set")
@pytest.mark.parametrize("name", TRAINED)
def test_the_saved_model_has_the_recipes_property(name, tmp_path, few, request):
    """The training is that of the command; without a property of its own, the saved epoch has the lowest objective."""
    epochs, holds = PROMISES.get(name, (2, None))
    settings = Settings("digits", recipe=name, epochs=epochs).with_recipe({"epochs", "precision"})
    data = settings.load() if holds else few
    if not holds:
        request.getfixturevalue("eager")
    settings = settings.for_data(data)
    model = model_of(settings, data)
    best = fit(
        model, data, epochs, learning_rate=settings.learning_rate, ema=settings.ema, folder=tmp_path, verbose=False
    )
    saved = kvae.load(tmp_path / "model.keras")
    for kept, stored in zip(model.get_weights(), saved.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, stored)
    history = {name: np.array(values) for name, values in RunFolder(tmp_path).history.items()}
    assert np.all(np.isfinite(history["loss"]))
    test = saved.evaluate(data.split("test", labels=True), return_dict=True, verbose=0)
    validation = saved.evaluate(data.split("validation", labels=True), return_dict=True, verbose=0)
    for value in ("distortion", "rate"):  # the file has the epoch that is reported as kept
        assert validation[value] == pytest.approx(history[f"val_{value}"][best.kept_epoch - 1], rel=1e-3)
    if holds is not None:
        assert holds(test, history, best.kept_epoch), (test, best.kept_because)
    criterion = model.criterion()
    values = [{key[4:]: history[key][i] for key in history if key.startswith("val_")} for i in range(epochs)]
    steps = [data.batches_per_epoch * (i + 1) for i in range(epochs)]
    judged = [math.inf if (value := criterion.judge(*pair)) is None else value for pair in zip(values, steps)]
    assert best.kept_epoch == (int(np.argmin(judged)) + 1 if np.isfinite(min(judged)) else epochs)


@pytest.mark.parametrize("given", [np.zeros((8, 4, 4, 1)), [np.zeros((8, 4, 4, 1))]], ids=("array", "list"))
def test_training_routine_expects_loaded_data(given):
    vae = kvae.VAE(latent_dim=2, image_shape=(4, 4, 1))
    with pytest.raises(TypeError, match=rf"`data` must be a `kvae.data.Data`. Received: {type(given).__name__}"):
        fit(vae, given)
