"""Disentanglement scores of codes whose scores are known."""

import keras
import numpy as np
import pytest

import kvae
from kvae import evaluation
from kvae.evaluation import dci, factor_vae_score, mig, sap

SIZES = (3, 8, 16)
GRID = np.indices(SIZES).reshape(len(SIZES), -1).T.repeat(3, axis=0)  # (1152, 3): exactly independent
SQUARE = np.indices((16, 16)).reshape(2, -1).T
RNG = np.random.default_rng(0)
ROTATION = np.array([[1, -1], [1, 1]])  # by 45°, scaled to keep integers


def scores(codes, factors, categorical=()):
    forest = dci(codes, factors)
    return {
        "mig": mig(codes, factors),
        "sap": sap(codes, factors, categorical),
        "factor_vae": factor_vae_score(codes, factors),
        **forest,
    }


PERFECT = dict.fromkeys(("mig", "sap", "factor_vae", "disentanglement", "completeness", "informativeness"), 1.0)

#: codes, factors, categorical factors, scores. The tolerance is 1e-6, because counts on a grid are exact.
KNOWN = {
    "the factors themselves": (GRID, GRID, (), PERFECT),
    "permuted, scaled, mirrored, shifted": (
        GRID[:, [2, 0, 1]] * [-3.0, 1e4, 1e-4] + [7.0, -1e3, 0.0], GRID, (), PERFECT,
    ),
    "with a constant latent": (np.hstack([GRID, np.ones((1152, 1))]), GRID, (), PERFECT),
    # A latent without information has an accuracy of one third.
    "a categorical factor": (GRID, GRID, (0,), {**PERFECT, "sap": (1 - 1 / 3 + 1 + 1) / 3}),
    # Each latent has a copy: no gap, and each factor is in two of six latents.
    "every latent twice": (
        np.hstack([GRID, GRID]), GRID, (),
        {**PERFECT, "mig": 0.0, "sap": 0.0, "completeness": 1 - np.log(2) / np.log(6)},
    ),
    # A single latent has no competitor, and no information about two of the three factors.
    "one factor only": (GRID[:, :1], GRID, (), {"mig": 1 / 3, "sap": 1 / 3}),
}  # fmt: skip


@pytest.mark.parametrize("name", KNOWN)
def test_codes_with_known_scores(name):
    codes, factors, categorical, expected = KNOWN[name]
    got = scores(codes, factors, categorical)
    # A tree chooses randomly between two equal latents, in 50 trees of some 7 splits for each factor.
    tolerance = {"completeness": 0.02} if name == "every latent twice" else {}
    for key, value in expected.items():
        assert got[key] == pytest.approx(value, abs=tolerance.get(key, 1e-6)), key


def test_random_codes_are_at_chance():
    factors = np.stack([RNG.integers(0, size, 3000) for size in SIZES], axis=1)
    got = scores(RNG.normal(size=(3000, 3)), factors)
    assert 0 <= got["mig"] < 0.01  # the bias of I, about (20 − 1)(C − 1)/2N ≤ 0.05 nats, is the same for all latents
    assert 0 <= got["sap"] < 0.005  # squared correlations of order 1/N
    assert 0 <= got["disentanglement"] < 0.02
    assert 0 <= got["completeness"] < 0.02
    # 600 held-out examples for each factor: a standard error below 0.02 each.
    assert got["informativeness"] == pytest.approx(np.mean([1 / size for size in SIZES]), abs=0.04)
    # A share of 800 votes: standard error 0.017.
    assert got["factor_vae"] == pytest.approx(1 / 3, abs=0.07)


def test_rotation_mixes_two_factors():
    """After a rotation by 45°, both latents have the same information about each factor."""
    got = scores(SQUARE @ ROTATION, SQUARE)
    assert got["mig"] == pytest.approx(0, abs=1e-6)  # by the symmetry of the grid
    assert got["sap"] == pytest.approx(0, abs=1e-6)
    assert got["disentanglement"] < 0.05
    assert got["completeness"] < 0.05
    # Both latents halve their variance with either factor fixed: chance, minus the chance gain of a majority.
    assert got["factor_vae"] == pytest.approx(0.5, abs=0.1)


def test_rotation_keeps_the_information():
    factors = SQUARE[RNG.integers(0, len(SQUARE), 6000)] // 4  # 4 × 4 values
    codes = (factors + 0.1 * RNG.normal(size=factors.shape)) @ ROTATION
    # Trees split along the axes: a staircase along the diagonal, wrong only at its edges.
    assert dci(codes, factors)["informativeness"] > 0.95
    assert dci(codes, factors)["disentanglement"] < 0.05


def test_noise_lowers_informativeness_but_not_disentanglement():
    factors = np.stack([RNG.integers(0, size, 3000) for size in SIZES], axis=1)
    codes = factors / factors.std(axis=0) + 0.3 * RNG.normal(size=factors.shape)
    got = dci(codes, factors)
    assert got["disentanglement"] > 0.7
    assert got["completeness"] > 0.7
    assert got["informativeness"] < 0.7


def test_noise_lowers_mig_by_the_lost_information():
    """One bit through a noisy latent: I = H(½) − H(ε); the other latent has no information."""
    bit, other = np.indices((2, 5000)).reshape(2, -1)
    flipped = np.where(other % 10 < 1, 1 - bit, bit)  # ε = 1/10, exactly
    entropy = -(0.1 * np.log(0.1) + 0.9 * np.log(0.9)) / np.log(2)
    codes = np.stack([flipped, other], axis=1)
    assert mig(codes, bit[:, None]) == pytest.approx(1 - entropy, abs=1e-9)


def test_a_model_that_copies_its_factors():
    """Each of four pixels is a factor; the code is the image and an additional, nearly inactive latent."""
    factors = np.indices((3, 3, 3, 3)).reshape(4, -1).T.repeat(5, axis=0)
    images = (factors / 2).astype("float32").reshape(-1, 2, 2, 1)
    encoder = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(5)])
    model = kvae.Autoencoder(encoder, latent_dim=5, image_shape=(2, 2, 1))
    encoder.layers[-1].set_weights([np.hstack([np.eye(4), 1e-3 * np.ones((4, 1))]), np.zeros(5)])
    got = evaluation.disentanglement(model, images, factors, categorical=[1])
    assert (got.pop("examples"), got.pop("active_units")) == (405, 4)
    assert got.pop("sap") == pytest.approx((3 + 2 / 3) / 4, abs=1e-6)
    assert got == pytest.approx(dict.fromkeys(got, 1.0), abs=1e-6)
    assert set(got) == {"mig", "dci_disentanglement", "dci_completeness", "dci_informativeness", "factor_vae"}
    with pytest.raises(ValueError, match="0 of 5 active"):
        evaluation.disentanglement(model, images * 0, factors)


class LookupModel:
    """A model that encodes an image of `shapes()` by looking it up."""

    def __init__(self, images, codes):
        self.codes = {image.tobytes(): code for image, code in zip(images, codes)}
        assert len(self.codes) == len(images)  # all images are different

    def encode_mean(self, images):
        return np.stack([self.codes[image.tobytes()] for image in np.asarray(images)])


@pytest.fixture(scope="module")
def shapes():
    return kvae.data.shapes()


@pytest.mark.slow
def test_shapes_encoded_as_their_factors(shapes):
    model = LookupModel(shapes.images, shapes.factors * [1.0, -3.0, 1e3, 0.2, 1.0])
    got = evaluation.disentanglement(model, shapes.images, shapes.factors, shapes.categorical)
    assert (got.pop("examples"), got.pop("active_units")) == (36_864, 5)
    # There are three shapes: a latent without information has an accuracy of one third.
    assert got.pop("sap") == pytest.approx((1 - 1 / 3 + 4) / 5, abs=1e-6)
    assert got == pytest.approx(dict.fromkeys(got, 1.0), abs=1e-6)  # a grid: counts are exact


@pytest.mark.slow
def test_shapes_drawn_and_encoded_as_their_factors(shapes):
    model = LookupModel(shapes.images, shapes.factors)
    drawn = kvae.data.shapes(4000, seed=1)
    got = evaluation.disentanglement(model, drawn.images, drawn.factors, drawn.categorical)
    # The factors are correlated by chance: I about (C − 1)(C' − 1) / 2N ≤ 0.03 nats, r² about 1 / N, and the best
    # guess of the shape is a standard error of some 0.01 above a third.
    assert got["mig"] == pytest.approx(1, abs=0.03)
    assert got["sap"] == pytest.approx((1 - 1 / 3 + 4) / 5, abs=0.01)
    for name in ("dci_disentanglement", "dci_completeness", "dci_informativeness", "factor_vae"):
        assert got[name] == pytest.approx(1, abs=1e-3)


@pytest.mark.slow
def test_shapes_encoded_at_random(shapes):
    drawn = kvae.data.shapes(3000, seed=1)
    model = LookupModel(drawn.images, RNG.normal(size=(3000, 5)))
    got = evaluation.disentanglement(model, drawn.images, drawn.factors, drawn.categorical)
    assert got["active_units"] == 5
    for name in ("mig", "sap", "dci_disentanglement", "dci_completeness"):
        assert 0 <= got[name] < 0.02, name  # as in `test_random_codes_are_at_chance`
    # 600 held-out examples for each factor, and 800 votes: standard errors below 0.02.
    assert got["dci_informativeness"] == pytest.approx(np.mean([1 / size for size in drawn.sizes]), abs=0.04)
    assert got["factor_vae"] == pytest.approx(1 / 5, abs=0.07)


def test_scores_of_a_vae_equal_those_of_its_features():
    data = kvae.data.shapes(1000, seed=1)
    encoder = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(6)])  # means and scales
    vae = kvae.VAE(encoder, latent_dim=3, image_shape=data.images.shape[1:])
    got = evaluation.disentanglement(vae, data.images, data.factors, data.categorical)
    assert (got["active_units"], got["examples"]) == (3, 1000)
    codes = kvae.features.extract(vae, data.images)["mean"]
    assert mig(codes, data.factors) == pytest.approx(got["mig"], abs=1e-3)  # rounding may move a code to the next bin
    assert sap(codes, data.factors, data.categorical) == pytest.approx(got["sap"], abs=1e-3)


def test_continuous_factors_are_divided_into_ten_bins():
    factors = RNG.uniform(-1, 1, (3000, 3)).astype(np.float32) * [1, 100, 1e-3]
    low, high = factors.min(axis=0), factors.max(axis=0)
    bins = np.stack([np.digitize(v, np.linspace(*ends, 11)[1:-1]) for v, *ends in zip(factors.T, low, high)], axis=1)
    codes = factors + 0.1 * RNG.normal(size=factors.shape) * [1, 100, 1e-3]
    for score in (mig, sap, factor_vae_score):
        assert score(codes, factors) == pytest.approx(score(codes, bins), abs=1e-3)  # a value may lie at an edge
    # As for factors drawn as integers: I by chance is about (20 − 1)(10 − 1) / 2N ≤ 0.03 nats for all latents.
    assert mig(factors, factors) == pytest.approx(1, abs=0.03)


REFUSED = {
    "lengths": (GRID[:10], GRID, "same N images"),
    "one axis": (GRID[:, 0], GRID, "same N images"),
    "factors that aren't numbers": (GRID, GRID.astype(str), "numeric factors.*<U"),
    "factors with NaN": (GRID, np.where(GRID == 7, np.nan, GRID), "finite factors. Received: 216 NaN"),
    "a factor that never varies": (GRID, GRID * [1, 1, 0], "two values or more"),
    "no examples": (GRID[:0], GRID[:0], "0 examples"),
    "NaN": (GRID * np.nan, GRID, "NaN"),
    "a constant code": (GRID * 0, GRID, "all constant"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("score", [mig, sap, dci, factor_vae_score], ids=lambda score: score.__name__)
def test_invalid_arguments_are_refused(score, name):
    codes, factors, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        score(codes, factors)


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="group=1"):
        factor_vae_score(GRID, GRID, group=1)
