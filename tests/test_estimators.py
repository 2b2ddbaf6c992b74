"""The scikit-learn estimators: scikit-learn's own checks, features compared with Keras, scores with exact ones."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import kvae
from kvae import likelihoods, networks
from kvae.features.anomaly import CRITERIA, AnomalyDetector, png_nats
from kvae.features.synthetic_anomalies import synthetic_anomalies
from kvae.features.transformer import VAETransformer

QUICK = {"latent_dim": 2, "units": (16,), "epochs": 2, "batch_size": 32, "num_samples": 2}


# No check is expected to fail.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Even though the `tf.config.experimental_run_functions_eagerly` option is set")
@parametrize_with_checks([VAETransformer(**QUICK), AnomalyDetector(**QUICK)])
def test_scikit_learn_checks(estimator, check, eager):
    check(estimator)


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    """Rows on a plane in five dimensions, with a little noise."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(400, 2)) @ rng.normal(size=(2, 5)) + 0.05 * rng.normal(size=(400, 5))) * 2 + 1


@pytest.fixture(scope="module")
def fitted(table) -> VAETransformer:
    return VAETransformer(2, units=(32,), epochs=80, learning_rate=3e-3, random_state=0).fit(table)


@pytest.fixture(scope="module")
def flat_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return (x / 16).astype("float32"), y


def test_transform_and_inverse_transform(fitted, table):
    z = fitted.transform(table)
    assert z.shape == (400, 2)
    assert fitted.active_.all()
    back = fitted.inverse_transform(z)
    assert back.shape == table.shape
    assert np.mean((back - table) ** 2) < 0.1 * table.var(axis=0).mean()
    assert list(fitted.get_feature_names_out()) == ["vaetransformer0", "vaetransformer1"]


def test_features_equal_those_of_the_model(fitted, table):
    vae, images = fitted.model_, table.astype("float32")
    mean, variance = (np.asarray(value) for value in vae.encode(images))
    expected = {
        "mean": mean,
        "moments": np.concatenate([mean, variance], axis=1),
        "hidden": np.asarray(vae.encoder.hidden(images)),
        "layers": np.asarray(vae.encoder.hidden(images)),  # there is only one
    }
    for features, values in expected.items():
        estimator = VAETransformer(features=features, model=vae, epochs=0).fit(table)
        np.testing.assert_allclose(estimator.transform(table), values, atol=1e-5)
        assert len(estimator.get_feature_names_out()) == values.shape[1]


def test_results_of_a_row_do_not_depend_on_other_rows(fitted, table):
    for method in (fitted.transform, fitted.score_samples):
        whole = method(table)
        for rows in (slice(7, 8), slice(300, 333)):  # up to the order of float32 sums
            np.testing.assert_allclose(method(table[rows]), whole[rows], rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_scores_approach_the_analytic_likelihood(table):
    """A linear decoder with a normal likelihood is probabilistic PCA: log p(x) is that of a normal distribution."""
    x = table[:64].astype("float32")
    decoder = networks.Decoder((1, 5, 1), networks.MLP((4,), activation="linear"))
    vae = kvae.VAE(networks.Encoder(2, networks.MLP((8,))), decoder, likelihood=likelihoods.Normal(0.7), bounded=False)
    ends = np.asarray(vae.decode(np.vstack([np.zeros((1, 2)), np.eye(2)]).astype("float32"))).reshape(3, 5)
    mean, weights = ends[0], (ends[1:] - ends[0]).T
    exact = stats.multivariate_normal(mean, weights @ weights.T + 0.49 * np.eye(5)).logpdf(x)
    scores = VAETransformer(model=vae, epochs=0, num_samples=4000).fit(x).score_samples(x)
    errors = scores - exact
    assert np.median(np.abs(errors)) < 0.1
    assert errors.max() < 0.7  # an untrained posterior may miss outliers, but never overestimates much
    few = VAETransformer(model=vae, epochs=0, num_samples=1).fit(x).score(x)
    assert few < scores.mean()
    refined = VAETransformer(model=vae, epochs=0, num_samples=20, proposal="refined").fit(x)
    np.testing.assert_allclose(
        refined.score_samples(x), exact, atol=0.3
    )  # 20 samples; 4000 of the posterior miss by 0.7
    np.testing.assert_array_equal(refined.score_samples(x[5:6]), refined.score_samples(x)[5:6])
    with pytest.raises(ValueError, match="Argument `proposal` must be"):
        VAETransformer(model=vae, proposal="annealed").fit(x)


@pytest.mark.slow
def test_fit_is_reproducible_and_does_not_change_global_random_state(table):
    import random

    state = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first = VAETransformer(**QUICK, random_state=3).fit_transform(table)
    assert state == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    np.testing.assert_array_equal(first, VAETransformer(**QUICK, random_state=3).fit_transform(table))
    assert np.any(first != VAETransformer(**QUICK, random_state=4).fit_transform(table))


@pytest.mark.slow
def test_a_pickle_loads_in_another_process(fitted, table, tmp_path):
    (tmp_path / "fitted.pickle").write_bytes(pickle.dumps(fitted))
    np.save(tmp_path / "x.npy", table)
    code = (
        "import pickle, numpy as np\n"
        f"fitted = pickle.load(open(r'{tmp_path / 'fitted.pickle'}', 'rb'))\n"
        f"x = np.load(r'{tmp_path / 'x.npy'}')\n"
        f"np.savez(r'{tmp_path / 'out.npz'}', z=fitted.transform(x), s=fitted.score_samples(x))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    out = np.load(tmp_path / "out.npz")
    np.testing.assert_array_equal(out["z"], fitted.transform(table))
    np.testing.assert_allclose(out["s"], fitted.score_samples(table), rtol=1e-5)


@pytest.mark.slow
def test_pipeline_and_grid_search(flat_digits):
    x, y = flat_digits[0][:400], flat_digits[1][:400]
    pipeline = make_pipeline(
        StandardScaler(), VAETransformer(**QUICK, random_state=0), LogisticRegression(max_iter=500)
    )
    search = GridSearchCV(pipeline, {"vaetransformer__features": ["mean", "hidden"]}, cv=2).fit(x, y)
    assert search.best_params_ == {"vaetransformer__features": "hidden"}  # 16 numbers have more information than 2
    assert search.best_score_ > 0.5
    by_likelihood = GridSearchCV(VAETransformer(**QUICK, random_state=0), {"epochs": [1, 8]}, cv=2).fit(x)
    assert by_likelihood.best_params_ == {"epochs": 8}


@pytest.mark.filterwarnings("ignore:No latent is active")
@pytest.mark.parametrize("shape", [(64,), *(pytest.param(s, marks=pytest.mark.slow) for s in ((8, 8), (8, 8, 1)))])
def test_images_of_every_shape(flat_digits, shape):
    x = flat_digits[0][:100].reshape(-1, *shape)
    settings = {**QUICK, "epochs": 1, "random_state": 0}
    estimator = VAETransformer(**settings, image_shape=(8, 8, 1) if len(shape) == 1 else None).fit(x)
    assert type(estimator.model_.likelihood) is likelihoods.Bernoulli
    assert estimator.inverse_transform(estimator.transform(x)).shape == x.shape


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:No latent is active")
def test_models_recipes_and_autoencoders(flat_digits):
    x = flat_digits[0][:100].reshape(-1, 8, 8, 1)
    own = kvae.VAE(latent_dim=3, image_shape=(8, 8, 1))
    before = [weight.numpy() for weight in own.weights]
    settings = {**QUICK, "epochs": 1}
    assert VAETransformer(**settings, model=own).fit(x).transform(x).shape == (100, 3)
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(before, own.weights, strict=True))
    assert VAETransformer(**settings, model="sigma_vae").fit(x).transform(x).shape == (100, 2)
    autoencoder = VAETransformer(**settings, model=lambda shape, d: kvae.Autoencoder(latent_dim=d, image_shape=shape))
    assert autoencoder.fit(x).transform(x).shape == (100, 2)
    assert not hasattr(autoencoder, "score_samples")
    assert clone(autoencoder).get_params()["model"] is autoencoder.model


@pytest.mark.slow
def test_inactive_latents_are_masked_and_a_collapse_warns(table):
    estimator = VAETransformer(6, units=(32,), epochs=80, learning_rate=3e-3, random_state=0).fit(table)
    dead = ~estimator.active_
    assert 0 < dead.sum() < 6  # the data have two dimensions
    z = estimator.transform(table)
    assert np.all(z[:, dead] == 0)
    assert np.all(z[:, ~dead].var(axis=0) > 0.01)
    assert np.any(estimator.set_params(mask_inactive=False).transform(table)[:, dead] != 0)
    noise = np.random.default_rng(0).normal(size=(100, 3))
    with pytest.warns(ConvergenceWarning, match="No latent is active"):
        VAETransformer(2, model=lambda shape, d: _collapsed(shape, d), epochs=0).fit(noise)


def _collapsed(shape, latent_dim):
    model = kvae.VAE(latent_dim=latent_dim, event_shape=shape, likelihood=likelihoods.Normal(), bounded=False,
                     encoder=networks.Encoder(latent_dim, networks.MLP((4,))),
                     decoder=networks.Decoder(shape, networks.MLP((4,))))  # fmt: skip
    model.encoder.head.kernel.assign(0 * model.encoder.head.kernel)
    return model


@pytest.mark.slow
def test_patience_stops_early_and_keeps_the_best(table):
    estimator = VAETransformer(
        2, units=(64,), epochs=300, patience=2, learning_rate=1e-2, validation_fraction=0.3, random_state=0
    ).fit(table)
    assert estimator.n_iter_ < 300
    losses = estimator.history_["val_loss"]
    assert len(losses) == estimator.n_iter_
    assert np.argmin(losses) == estimator.n_iter_ - 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"latent_dim": 0}, "latent_dim"),
        ({"epochs": -1}, "epochs"),
        ({"features": "pixels"}, "features"),
        ({"model": "no_such"}, "recipes"),
        ({"model": 3}, "callable|Expected a"),
        ({"image_shape": (2, 2, 1)}, "event_shape"),
        ({"validation_fraction": 1.0}, "validation_fraction"),
    ],
)
def test_invalid_settings_are_refused(table, settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        VAETransformer(**{**QUICK, **settings}).fit(table)


def test_invalid_rows_are_refused(fitted, table):
    with pytest.raises(NotFittedError):
        VAETransformer().transform(table)
    with pytest.raises(ValueError, match="features"):
        fitted.transform(table[:, :3])
    with pytest.raises(ValueError, match="2 latents"):
        fitted.inverse_transform(table)
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        VAETransformer(**QUICK).fit(np.full((20, 8, 8), 255.0))  # unscaled images


@pytest.mark.slow
def test_outliers_of_a_table(table):
    rng = np.random.default_rng(1)
    outliers = rng.normal(size=(100, 5)) * table.std(axis=0) + table.mean(
        axis=0
    )  # the same scale, but not on the plane
    scores = {}
    for criterion in ("elbo", "likelihood", "distortion", "typicality"):
        detector = AnomalyDetector(
            2, criterion=criterion, units=(32,), epochs=60, learning_rate=5e-3, contamination=0.05, random_state=0
        ).fit(table)
        assert np.sum(detector.predict(table) == -1) == 20
        both = np.concatenate([detector.score_samples(table), detector.score_samples(outliers)])
        scores[criterion] = roc_auc_score(np.repeat([1, 0], [400, 100]), both)
        np.testing.assert_allclose(detector.decision_function(table), both[:400] - detector.offset_)
    assert min(scores["elbo"], scores["likelihood"], scores["distortion"]) > 0.85
    assert scores["typicality"] > 0.75


@pytest.mark.slow
def test_scores_equal_their_definitions(fitted, table):
    x, ordinary = table[:50], table[50:150]
    for criterion in set(CRITERIA) - {"complexity"}:
        detector = AnomalyDetector(model=fitted.model_, criterion=criterion, epochs=0, random_state=0).fit(ordinary)
        rows, typical = (detector._scores(detector._images(detector._validate(part))) for part in (x, ordinary))
        expected = {
            "elbo": rows["distortion"] + rows["rate"],
            "likelihood": rows["nll"],
            "distortion": rows["distortion"],
            "rate": rows["rate"],
            "typicality": np.abs(rows["nll"] - np.median(typical["nll"])),
        }
        np.testing.assert_array_equal(-detector.score_samples(x), expected[criterion])
        by_criterion = detector.score_by_criterion(x)
        assert set(by_criterion) == set(expected)  # rows of numbers have no "complexity"
        for name, values in expected.items():
            np.testing.assert_array_equal(-by_criterion[name], values)


@pytest.fixture(scope="module")
def copies() -> tuple[AnomalyDetector, np.ndarray]:
    """A detector with the default model of tables, and its rows: five noisy copies of a number, in different units."""
    rng = np.random.default_rng(0)
    units = np.array([1e-3, 1, 10, 100, 1e4])
    x = (rng.normal(size=(400, 1)) + 0.1 * rng.normal(size=(400, 5))) * units + 3 * units
    return AnomalyDetector(2, units=(32,), epochs=30, random_state=0).fit(x), x


@pytest.mark.parametrize("criterion", ["auto", "distortion", "likelihood"])
def test_contributions_sum_to_the_score_and_point_at_the_corrupted_column(copies, criterion):
    detector, x = copies
    corrupted, columns = x[:40].copy(), np.arange(40) % 5
    corrupted[np.arange(40), columns] += 3 * x.std(axis=0)[columns]
    detector = clone(detector).set_params(model=detector.model_, epochs=0, criterion=criterion)
    rows = corrupted.astype("float32")
    detector.fit(x)
    parts = detector.contributions(rows)
    assert parts.shape == (40, 5)
    np.testing.assert_allclose(parts.sum(axis=1), -detector.score_samples(rows), rtol=1e-9)
    # Without the share of the rest, the parts are those of the distortion; float32 has 24 bits.
    rest = detector.score_by_criterion(rows)["distortion"] - detector.score_samples(rows)
    images = detector._images(detector._validate(rows))
    entries = detector._samplers["posterior", detector.num_samples].entry_distortions(images)
    np.testing.assert_allclose(entries.reshape(40, 5), parts - rest[:, None] / 5, rtol=1e-4, atol=1e-4)
    assert np.all(parts.argmax(axis=1) == columns)


@pytest.mark.parametrize(
    ("settings", "row_shape", "rows", "expected"),
    [
        ({}, (5,), 100, (500, 3e-3)),  # two steps in an epoch
        ({"batch_size": 10}, (5,), 100, (100, 3e-3)),
        ({}, (5,), 64_000, (30, 3e-3)),
        ({"epochs": 7, "learning_rate": 0.1}, (5,), 100, (7, 0.1)),
        ({}, (8, 8), 100, (30, 1e-3)),
        ({"image_shape": (8, 8, 1)}, (64,), 100, (30, 1e-3)),
        ({"model": "plain"}, (5,), 100, (30, 1e-3)),
    ],
)
def test_tables_are_trained_for_enough_steps(settings, row_shape, rows, expected):
    detector = AnomalyDetector(**settings)
    detector.row_shape_ = row_shape
    assert detector._training(rows) == expected


def test_the_default_model_of_tables_scales_the_columns(copies):
    detector, x = copies
    likelihood = detector.model_.likelihood
    np.testing.assert_allclose(likelihood.location, x.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(likelihood.scale, x.std(axis=0), rtol=1e-5)
    in_other_units = AnomalyDetector(2, units=(32,), epochs=30, random_state=0).fit(1000 * x)
    np.testing.assert_allclose(
        in_other_units.score_samples(1000 * x[:50]), detector.score_samples(x[:50]) - 5 * np.log(1000), rtol=0.02
    )


def test_contributions_of_images(flat_digits):
    x = flat_digits[0][:40].reshape(-1, 8, 8)
    spoiled = x.copy()
    spoiled[:, 0, 0] = 1  # a corner that is always 0
    detector = AnomalyDetector(2, image_shape=(8, 8, 1), epochs=20, random_state=0).fit(x.reshape(40, 64))
    difference = detector.contributions(spoiled.reshape(40, 64)) - detector.contributions(x.reshape(40, 64))
    assert difference.shape == (40, 64)
    assert np.all(difference.argmax(axis=1) == 0)
    with pytest.raises(ValueError, match=r"contains the distortion.*Received: criterion='rate'"):
        detector.set_params(criterion="rate").contributions(x.reshape(40, 64))


def test_the_criterion_of_images_is_the_one_that_misses_no_synthetic_anomaly(flat_digits):
    x = flat_digits[0][:200].reshape(-1, 8, 8)
    detector = AnomalyDetector(2, epochs=10, num_samples=2, random_state=0).fit(x)
    assert isinstance(detector.model_.likelihood, likelihoods.DiscretizedLogistic)
    assert detector.criterion_auroc_.keys() == CRITERIA.keys()
    worst = {name: min(found.values()) for name, found in detector.criterion_auroc_.items()}
    assert detector.criterion_ == max(worst, key=worst.get)
    scores = -detector.score_by_criterion(x)[detector.criterion_]
    np.testing.assert_array_equal(-detector.score_samples(x), scores)
    for kind, made in synthetic_anomalies(x[..., np.newaxis], detector.seed_).items():
        both = np.concatenate([scores, -detector.score_samples(made[..., 0])])
        expected = roc_auc_score(np.repeat([0, 1], 200), both)
        assert detector.criterion_auroc_[detector.criterion_][kind] == pytest.approx(expected)
    binary = AnomalyDetector(2, epochs=0, num_samples=1, random_state=0).fit(x > 0.5)
    assert isinstance(binary.model_.likelihood, likelihoods.Bernoulli)
    assert "complexity" not in binary.criterion_auroc_
    one = AnomalyDetector(2, epochs=0, num_samples=1).fit(x[:1])  # of which there is no other image
    assert (one.criterion_, one.criterion_auroc_) == ("elbo", {})


@pytest.mark.parametrize("shape", [(28, 28, 1), (17, 5, 3), (1, 1, 1), (1, 40, 2)])
def test_synthetic_anomalies(shape):
    images = np.random.default_rng(0).random((6, *shape)).astype("float32")
    made = synthetic_anomalies(images, seed=3)
    again = synthetic_anomalies(images, seed=3)
    for kind, found in made.items():
        assert found.shape == images.shape
        assert found.dtype == images.dtype
        assert found.min() >= 0
        assert found.max() <= 1
        np.testing.assert_array_equal(found, again[kind])
    np.testing.assert_array_equal(
        np.sort(made["shuffled"].reshape(6, -1, shape[-1]), 1), np.sort(images.reshape(6, -1, shape[-1]), 1)
    )
    assert made["smooth"].std() <= images.std() + 1e-6
    changed = (made["pasted"] != images).any(axis=-1).sum(axis=(1, 2))
    assert np.all(changed <= max(1, shape[0] // 3) * max(1, shape[1] // 3))
    assert np.all(changed >= 1)


@pytest.mark.slow
def test_complexity_uses_a_likelihood_of_grey_levels(flat_digits):
    x = flat_digits[0][:40].reshape(-1, 8, 8, 1)
    settings = {**QUICK, "epochs": 0, "random_state": 0}
    detector = AnomalyDetector(**settings, criterion="complexity").fit(x)
    assert type(detector.model_.likelihood) is likelihoods.DiscretizedLogistic
    assert detector.model_.likelihood.levels == 256
    by_criterion = detector.score_by_criterion(x)
    assert set(by_criterion) == set(CRITERIA)
    np.testing.assert_array_equal(by_criterion["complexity"], detector.score_samples(x))
    np.testing.assert_array_equal(-by_criterion["complexity"], -by_criterion["likelihood"] - png_nats(x))


@pytest.mark.parametrize(
    ("shape", "likelihood", "message"),
    [
        ((8, 8, 1), likelihoods.Bernoulli(), "DiscretizedLogistic.*Received: likelihood=Bernoulli"),
        ((8, 8, 2), likelihoods.DiscretizedLogistic(), r"1 or 3 channels. Received: images \(8, 8, 2\)"),
    ],
)
def test_undefined_complexity_is_refused_or_left_out(shape, likelihood, message):
    x = np.random.default_rng(0).integers(0, 2, (40, *shape)).astype("float32")
    model = kvae.VAE(
        networks.Encoder(2, networks.MLP((8,))), networks.Decoder(shape, networks.MLP((8,))), likelihood=likelihood
    )
    settings = {**QUICK, "model": model, "random_state": 0}
    with pytest.raises(ValueError, match=message):
        AnomalyDetector(**settings, criterion="complexity").fit(x)
    detector = AnomalyDetector(**{**settings, "epochs": 0}).fit(x)
    assert set(detector.score_by_criterion(x)) == set(CRITERIA) - {"complexity"}


@pytest.mark.slow
def test_corrected_scores_detect_simpler_images_and_likelihoods_do_not():
    """A model of noisy textures gives flat grey images a better likelihood than textures."""
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (600, 8, 8, 1)) / 255
    textures = np.round(levels.astype("float32") * 255) / 255
    flat = np.round(np.full((100, 8, 8, 1), 0.5) * 255).astype("float32") / 255

    def model(shape, latent_dim):
        return kvae.VAE(
            networks.Encoder(latent_dim, networks.MLP((32,))),
            networks.Decoder(shape, networks.MLP((32,))),
            likelihood=likelihoods.DiscretizedLogistic(),
        )

    aurocs = {}
    for criterion in ("likelihood", "complexity", "typicality"):
        detector = AnomalyDetector(2, criterion=criterion, model=model, epochs=30, random_state=0).fit(textures[:500])
        both = np.concatenate([detector.score_samples(textures[500:]), detector.score_samples(flat)])
        aurocs[criterion] = roc_auc_score(np.repeat([1, 0], 100), both)
    assert aurocs["likelihood"] < 0.1
    assert aurocs["complexity"] > 0.9
    assert aurocs["typicality"] > 0.9


def test_png_lengths_equal_those_of_files(tmp_path):
    from PIL import Image

    images = np.random.default_rng(0).random((3, 8, 9, 3))
    for image, nats in zip(images, png_nats(images), strict=True):
        Image.fromarray(np.round(image * 255).astype("uint8")).save(tmp_path / "image.png", optimize=True)
        assert nats == pytest.approx((tmp_path / "image.png").stat().st_size * 8 * np.log(2))


@pytest.mark.parametrize("shape", [(3, 8, 8, 2), (3, 8, 8, 4), (8, 8, 3)])
def test_png_lengths_refuse_other_shapes(shape):
    with pytest.raises(ValueError, match="1 or 3 channels"):
        png_nats(np.zeros(shape))


@pytest.mark.parametrize("settings", [{"criterion": "surprise"}, {"contamination": 0.0}, {"contamination": 0.6}])
def test_invalid_settings_of_a_detector_are_refused(table, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        AnomalyDetector(**QUICK, **settings).fit(table)


def test_invalid_data_is_refused(table):
    with pytest.raises(ValueError, match=r"not finite.*StandardScaler"):
        VAETransformer(**QUICK).fit(table * 1e30)
    with pytest.raises(ValueError, match="complexity"):
        AnomalyDetector(**QUICK, criterion="complexity").fit(table)


def test_an_autoencoder_has_no_scores(table):
    def autoencoder(shape, latent_dim):
        return kvae.Autoencoder(
            networks.Encoder(latent_dim, networks.MLP((8,)), param_size=latent_dim),
            networks.Decoder(shape, networks.MLP((8,))),
            likelihood=likelihoods.Normal(),
            bounded=False,
        )

    with pytest.raises(ValueError, match="prior"):
        AnomalyDetector(**QUICK, model=autoencoder).fit(table)
