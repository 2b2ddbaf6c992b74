"""Events other than images: series, rows of a table, volumes; and values in their own units."""

import keras
import numpy as np
import pytest

import kvae
from kvae import likelihoods, networks, plotting, priors
from kvae.features import AnomalyDetector, VAETransformer, classifier, extract

SHAPES = {"row": (5,), "series": (20, 3), "short series": (3, 2), "volume": (3, 4, 5, 2)}
LOCATION, SCALE = (0.0, 1000.0, -5.0), (1.0, 0.01, 100.0)


def normal(shape, **options):
    """Return a VAE of real numbers."""
    likelihood = options.pop("likelihood", None) or likelihoods.DiagonalNormal()
    return kvae.VAE(latent_dim=2, event_shape=shape, likelihood=likelihood, bounded=False, **options)


def events(shape, count=40, seed=0):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype("float32")


@pytest.fixture(scope="module")
def series():
    """Return a trained VAE of series in their own units, and its data `(60, 20, 3)`."""
    rng, steps = np.random.default_rng(0), np.arange(20)
    phase = rng.uniform(0, 6, (60, 1, 1))
    x = np.sin(0.4 * steps[:, None] + phase + np.arange(3)) + 0.1 * rng.normal(size=(60, 20, 3))
    x = (np.array(LOCATION) + np.array(SCALE) * x).astype("float32")
    vae = normal((20, 3), likelihood=likelihoods.Scaled(location=LOCATION, scale=SCALE, names=["a", "b", "c"]))
    vae.compile("adam")
    vae.fit(x, epochs=2, batch_size=20, verbose=0)
    return vae, x


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_default_networks_of_every_kind_of_event(shape, tmp_path):
    x, vae = events(shape), normal(shape)
    vae.compile("adam")
    history = vae.fit(x, batch_size=20, verbose=0).history
    assert np.isfinite(history["elbo"]).all()
    assert vae.event_shape == vae.image_shape == shape
    assert vae.encode(x).mean.shape == (40, 2)
    assert vae.reconstruct(x).shape == x.shape
    assert vae.generate(3, seed=0, pixel_noise=True).shape == (3, *shape)
    assert vae.interpolate_images(x[0], x[1], 4).shape == (4, *shape)
    assert extract(vae, x)["mean"].shape == (40, 2)
    vae.save(tmp_path / "vae.keras")
    np.testing.assert_array_equal(kvae.load(tmp_path / "vae.keras").reconstruct(x), vae.reconstruct(x))


BODIES = {
    "conv": lambda: (networks.ConvDown((8, 8), 16), networks.ConvUp((8, 8))),
    "residual": lambda: (networks.ResidualDown((8,), 1, 16), networks.ResidualUp((8, 8), 1)),
    "mlp": lambda: (networks.MLP((16,)), networks.MLP((16,))),
}


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("steps", [20, 21, 2])
def test_bodies_of_series(body, steps):
    down, up = BODIES[body]()
    encoder, decoder = networks.Encoder(2, down), networks.Decoder((steps, 3), up)
    assert encoder(events((steps, 3), 2)).shape == (2, 4)
    assert decoder(np.zeros((2, 2))).shape == (2, steps, 3)


@pytest.mark.parametrize("kind", networks.residual.KINDS)
def test_residual_blocks_of_series_start_as_the_identity(kind):
    x = events((9, 4), 2)
    np.testing.assert_array_equal(networks.ResidualBlock(4, kind=kind)(x), x)


def test_a_convolution_moves_with_a_series():
    """The body is a function of the order of the steps: a dense layer on single steps wouldn't be."""
    x = events((16, 2), 1)
    body = networks.ConvDown((4,), 8)
    assert float(np.abs(body(x) - body(x[:, ::-1])).max()) > 1e-3


def test_convolutions_refuse_rows():
    with pytest.raises(ValueError, match="a row of a table requires `MLP`"):
        networks.Encoder(2, networks.ConvDown((4,)))(events((5,), 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"event_shape": (2, 2, 2, 2, 2)}, r"\(columns,\) or \(steps, features\)"),
        ({"event_shape": ()}, "event_shape"),
        ({"event_shape": (4, 0)}, r"event_shape=\(4, 0\)"),
        ({"event_shape": 7}, "event_shape=7"),
        ({"image_shape": (28, 28)}, "three positive integers"),
        ({"event_shape": (8, 8, 1), "image_shape": (8, 8, 3)}, "two names for one shape"),
    ],
)
def test_invalid_shapes(arguments, message):
    with pytest.raises(ValueError, match=message):
        kvae.VAE(latent_dim=2, **arguments)


def test_both_names_of_the_shape_are_equal():
    one, other = (kvae.VAE(latent_dim=2, **{name: (8, 8, 1)}) for name in ("event_shape", "image_shape"))
    assert one.get_config().keys() == other.get_config().keys()
    assert "image_shape" not in one.get_config()
    assert other.event_shape == (8, 8, 1)


class TestScaled:
    def test_log_p_changes_by_the_volume(self, series):
        """log p(x) = log p_base((x − location) / scale) − Σ log scale."""
        vae, x = series
        params = vae.reconstruction_params(x)
        inside = vae.likelihood.base.log_prob(params, (x - np.float32(LOCATION)) / np.float32(SCALE))
        expected = np.asarray(inside) - 20 * np.log(SCALE).sum()
        np.testing.assert_allclose(vae.likelihood.log_prob(params, x), expected, rtol=1e-5)

    def test_moments_are_in_the_units_of_x(self, series):
        vae, x = series
        params = vae.reconstruction_params(x[:1])
        drawn = np.asarray(vae.likelihood.sample(params, 4000, keras.random.SeedGenerator(0)))
        mean, variance = (np.asarray(value) for value in vae.likelihood.moments(params))
        error = np.sqrt(variance / 4000)
        assert np.abs((drawn.mean(axis=0) - mean) / error).max() < 5
        np.testing.assert_allclose(drawn.var(axis=0), variance, rtol=0.15)

    def test_training_doesnt_depend_on_the_units(self, series):
        """The ELBO in other units differs by the logarithm of their volume, and nothing else."""
        vae, x = series
        standardised = (x - np.float32(LOCATION)) / np.float32(SCALE)
        plain = normal((20, 3))
        plain.set_weights(vae.get_weights())
        for model in (vae, plain):
            model.compile()
        ours = vae.evaluate(x, verbose=0, return_dict=True)["elbo"]
        theirs = plain.evaluate(standardised, verbose=0, return_dict=True)["elbo"]
        assert ours == pytest.approx(theirs - 20 * np.log(SCALE).sum(), abs=2e-3 * abs(theirs))

    def test_a_saved_model_keeps_units_and_names(self, series, tmp_path):
        vae, x = series
        vae.save(tmp_path / "vae.keras")
        loaded = kvae.load(tmp_path / "vae.keras")
        assert (loaded.likelihood.scale, loaded.likelihood.names) == (SCALE, ("a", "b", "c"))
        np.testing.assert_array_equal(loaded.reconstruct(x), vae.reconstruct(x))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"scale": [1.0, 0.0], "location": [0.0, 0.0]}, "scale > 0"),
            ({"scale": [1.0], "location": [0.0, 0.0]}, "same length"),
            ({"scale": [np.nan], "location": [0.0]}, "finite"),
            ({"base": likelihoods.Bernoulli()}, "real numbers"),
            ({"names": ["a", "b"]}, "one name for each of 1 features"),
        ],
    )
    def test_errors(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            likelihoods.Scaled(**arguments)

    def test_another_number_of_features(self):
        with pytest.raises(ValueError, match="location and scale of 3 features"):
            normal((20, 3), likelihood=likelihoods.Scaled(location=[0.0, 1.0], scale=[1.0, 1.0]))


class TestUse:
    def test_conditional_series(self, series):
        x = series[1]
        vae = normal((20, 3), condition_dim=2, likelihood=likelihoods.Scaled(location=LOCATION, scale=SCALE))
        vae.compile("adam")
        vae.fit(x, np.arange(60) % 2, batch_size=20, verbose=0)
        assert vae.generate(4, condition=1).shape == (4, 20, 3)
        assert vae.interpolate_images(x[0], x[1], 3, condition=0).shape == (3, 20, 3)

    def test_vamp_prior_has_pseudo_inputs_in_standardised_units(self, series):
        x = series[1]
        likelihood = likelihoods.Scaled(location=LOCATION, scale=SCALE)
        vae = normal((20, 3), likelihood=likelihood, prior=priors.VampPrior(pseudo_inputs=4))
        vae.compile("adam")
        assert np.isfinite(vae.fit(x, batch_size=20, verbose=0).history["rate"]).all()

    def test_a_classifier_standardises_as_the_vae_does(self, series, tmp_path):
        vae, x = series
        net = classifier(vae, num_classes=2, output="mean")
        net.save(tmp_path / "classifier.keras")
        loaded = kvae.load(tmp_path / "classifier.keras")
        np.testing.assert_allclose(loaded(x), net(x), rtol=1e-6)
        head = net.head
        np.testing.assert_allclose(net(x), head(vae.encode(x).mean), rtol=1e-4, atol=1e-6)

    @pytest.mark.filterwarnings("ignore:No latent is active")  # after two epochs
    def test_estimators_of_series(self, series):
        x = series[1]
        shape = {"event_shape": (20, 3), "epochs": 0, "random_state": 0}
        codes = VAETransformer(2, model=series[0], **shape).fit_transform(x)
        flat = VAETransformer(2, model=series[0], **shape).fit_transform(x.reshape(60, -1))
        np.testing.assert_array_equal(codes, flat)
        assert AnomalyDetector(2, model=series[0], **shape).fit(x).score_samples(x).shape == (60,)

    @pytest.mark.filterwarnings("ignore:No latent is active")  # after an epoch
    def test_default_models_of_series(self, series):
        x = series[1]
        detector = AnomalyDetector(2, event_shape=(20, 3), epochs=1, alpha=0.1, random_state=0).fit(x)
        likelihood = detector.model_.likelihood  # of training rows
        assert np.all(np.abs(likelihood.location - x.mean((0, 1))) < 0.2 * x.std((0, 1)))
        assert np.allclose(likelihood.scale, x.std((0, 1)), rtol=0.2)
        far = x[:1].copy()
        far[0, 5, 1] += 30 * likelihood.scale[1]
        assert detector.p_values(far) == 1 / 13
        assert np.unravel_index(detector.contributions(far)[0].argmax(), (20, 3)) == (5, 1)
        codes = VAETransformer(2, event_shape=(20, 3), epochs=1, random_state=0).fit_transform(x / 2e4)
        assert codes.shape == (60, 2)
        with pytest.raises(ValueError, match=r"for series of 20 steps and 3 features, pass event_shape=\(20, 3\)"):
            AnomalyDetector(2, epochs=1).fit(x)

    def test_figures_choose_lines_for_series(self, series):
        vae, x = series
        for figure in (plotting.reconstructions(vae, x), plotting.samples(vae), plotting.traversals(vae)):
            assert sum(len(axes.lines) > 0 for axes in figure.axes) >= 6
        labels = [text.get_text() for text in plotting.reconstructions(vae, x).axes[0].figure.legends[0].get_texts()]
        assert labels == ["± 2 σ of p(x|z)", "reconstruction", "original"]
        assert plotting.samples(vae).axes[0].get_ylabel() == "a"
