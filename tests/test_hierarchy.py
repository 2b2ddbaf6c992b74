"""Hierarchies of latents: densities against independent answers, every objective, and depth."""

import itertools

import cases
import keras
import numpy as np
import pytest
import tensorflow as tf

import kvae
from kvae import evaluation, features, networks, posteriors
from kvae.distributions import Noise
from kvae.features import outputs
from kvae.networks import bottom_up

SHAPE, LEVELS = (8, 8, 1), ((4, 2, 2, 8), (2, 1, 1, 6))
X = (np.random.default_rng(0).random((12, *SHAPE)) < 0.4).astype("float32")


def hierarchy(levels=LEVELS, image_shape=SHAPE, moved=0.1, **parts):
    """Return a hierarchy whose weights have moved from the initialisation, where the posterior is the prior."""
    keras.utils.set_random_seed(0)
    encoder, decoder = networks.BottomUp(image_shape, levels), networks.TopDown(image_shape, levels)
    vae = kvae.VAE(encoder, decoder, posterior=posteriors.TopDownNormal(), **parts)
    rng = np.random.default_rng(1)
    for weight in (*encoder.weights, *decoder.weights):
        weight.assign_add(moved * rng.standard_normal(weight.shape).astype("float32"))
    return vae


@pytest.fixture(scope="module")
def vae():
    return hierarchy()


def test_drawn_latents_decode_to_the_parameters_of_their_pass(vae):
    q = vae.encoder_params(X)
    log_q, drawn = vae.posterior.draw(q, 3, Noise(0))
    assert drawn.z.shape == (3, 12, 2 * 2 * 2 * 2 + 4 * 4)
    np.testing.assert_allclose(vae.decoder_params(drawn.z), drawn.params, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(vae.posterior.log_prob(q, drawn.z), log_q, rtol=1e-4)
    np.testing.assert_allclose(vae.posterior.log_prob(q[:1], drawn.z[:, :1]), log_q[:, :1], rtol=1e-4)


def test_layers_depend_on_those_above_and_not_on_those_below(vae):
    """∂ mean of q(ε_l) / ∂ ε_m is zero for m >= l, and not for m < l."""
    q, z = vae.encoder_params(X[:1]), tf.random.stateless_normal((1, 1, vae.latent_dim), (0, 1))
    with tf.GradientTape() as tape:
        tape.watch(z)
        mean = vae.posterior.walk(q, z=z).mean
    jacobian = np.abs(tape.jacobian(mean, z)[0, 0, :, 0, 0])  # (D, D)
    ends = np.cumsum([0, 8, 8, 16])
    blocks = [[jacobian[a:b, c:d].max() for c, d in itertools.pairwise(ends)] for a, b in itertools.pairwise(ends)]
    assert np.array_equal(np.array(blocks) > 1e-8, np.tri(3, k=-1, dtype=bool))


def test_posterior_is_normalised_and_rates_are_its_kl(vae):
    """E_q[p(z) / q(z|x)] = 1, and E_q[log q(z|x) − log p(z)] is the sum of the layers' rates."""
    q = vae.encoder_params(X[:2])
    log_q, drawn = vae.posterior.draw(q, 20_000, Noise(0))
    log_ratio = np.asarray(log_q - vae.prior.log_prob(drawn.z), "float64")
    weights, rates = np.exp(-log_ratio), np.asarray(drawn.rates, "float64").sum(-1)
    for values, expected in ((weights, 1.0), (log_ratio - rates, 0.0)):
        error = values.std(axis=0) / np.sqrt(len(values))
        assert np.all(np.abs(values.mean(axis=0) - expected) < 5 * error)
    assert np.all(error < 0.1)
    assert np.all(rates.mean(axis=0) > 0.1)


def test_evidence_equals_quadrature():
    """Two latents, one above the other: log p(x) by a sum over a grid."""
    vae = hierarchy([(2, 2, 1, 4)], (2, 2, 1), moved=0.35)
    for layer in vae.encoder.posteriors:  # a posterior with lighter tails than p(z|x) can't be corrected by weights
        layer.head.set_weights([0.3 * weight for weight in layer.head.get_weights()])
    x = np.array([*itertools.product([0.0, 1.0], repeat=4)], "float32").reshape(16, 2, 2, 1)
    axis = np.linspace(-7, 7, 401, dtype="float32")
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 1, 2)
    logits = np.asarray(vae.decoder_params(grid), "float64")  # (N, 1, 2, 2, 1)
    p_x = np.exp(-np.logaddexp(0, np.where(x > 0, -logits, logits)).sum(axis=(2, 3, 4)))  # (N, 16)
    p_z = np.exp(-0.5 * np.square(grid).sum(axis=-1)) / (2 * np.pi)
    evidence = np.log((p_x * p_z).sum(axis=0) * (axis[1] - axis[0]) ** 2)
    assert np.logaddexp.reduce(evidence) == pytest.approx(0, abs=1e-3)
    assert np.ptp(evidence) > 0.3
    for proposal, k in (("posterior", 4000), ("refined", 1000)):
        rows = evaluation.score_images(vae, x, k, proposal=proposal)
        error = np.sqrt((k / rows["ess"] - 1) / k)
        assert np.all(np.abs(rows["nll"] + evidence) < 5 * error + 1e-3), proposal


@pytest.mark.parametrize("name", cases.OBJECTIVES)
def test_objectives(name):
    """Every objective takes a hierarchy, unless it needs what that can't give, and says so."""
    refused = {"DReG": "hierarchy", "PIWAE": "hierarchy", "DIP-II": "covariance", "TotalCorrelation": "posterior"}
    message = next((text for start, text in refused.items() if name.startswith(start)), None)
    if message:
        with pytest.raises(ValueError, match=message):
            hierarchy(objective=cases.OBJECTIVES[name]()).batch_values(X, Noise(0), True)
        return
    vae = hierarchy(objective=cases.OBJECTIVES[name]())
    with tf.GradientTape() as tape:
        values = vae.batch_values(tf.constant(X), vae.noise(0), True)
        loss = tf.reduce_mean(values["loss"])
    gradients = tape.gradient(loss, vae.trainable_weights)
    assert all(gradient is not None and np.all(np.isfinite(gradient)) for gradient in gradients)
    assert np.allclose(values["rate_2x2"] + values["rate_4x4"], values["rate"], rtol=1e-5)


def test_free_bits_of_each_layer():
    vae = hierarchy()
    terms = vae.terms(X, Noise(0))
    rates = np.asarray(terms.rates).mean(axis=0)  # (L,)
    free = float(np.median(rates))
    loss = np.asarray(kvae.objectives.FreeBits(free)(terms))
    np.testing.assert_allclose(loss, terms.distortion[0] + np.maximum(rates, free).sum(), rtol=1e-5)
    assert loss.mean() > np.mean(terms.distortion[0] + terms.rate) + 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32"])
def test_fifty_layers_train(precision):
    keras.config.set_dtype_policy(precision)
    vae = hierarchy([(4, 50, 1, 4)], moved=0.0)
    rates = np.asarray(vae.terms(X, Noise(0)).rates)
    assert np.all(rates < 1e-6)  # an untrained posterior is the prior
    states = np.asarray(vae.decoder_params(tf.random.stateless_normal((100, vae.latent_dim), (0, 1))))
    assert 0.03 < states.std() < 3
    optimizer, losses = keras.optimizers.Adam(3e-3), []
    for step in range(6):  # eagerly: a graph of fifty layers takes minutes to build
        with tf.GradientTape() as tape:
            losses.append(tf.reduce_mean(vae.batch_values(tf.constant(X), vae.noise(step), True)["loss"]))
        gradients = tape.gradient(losses[-1], vae.trainable_weights)
        assert all(np.all(np.isfinite(gradient)) for gradient in gradients)
        optimizer.apply(gradients, vae.trainable_weights)
    assert losses[-1] < losses[0]


def test_layer_posterior_is_restored():
    layer = bottom_up.LayerPosterior(channels=3, block="separable")
    layer.build((None, 4, 4, 6))
    again = type(layer).from_config(layer.get_config())
    again.build((None, 4, 4, 6))
    assert [weight.shape for weight in again.weights] == [weight.shape for weight in layer.weights]
    assert np.all(layer(np.ones((2, 4, 4, 6)), np.ones((6, 4, 4, 6))) == np.zeros((6, 4, 4, 6)))  # N(0, I)


def test_redrawn_details_keep_the_top(vae):
    z, sizes = np.asarray(vae.encode_mean(X)), vae.decoder.level_sizes
    np.testing.assert_allclose(features.redraw(vae, X, keep=2), vae.reconstruct(X), atol=1e-5)
    np.testing.assert_allclose(features.redraw(vae, X, keep=0, seed=3), vae.generate(12, seed=3), atol=1e-5)
    drawn = np.concatenate([z[:, : sizes[0]], vae.prior.sample(12, 3)[:, sizes[0] :]], axis=1)
    np.testing.assert_allclose(features.redraw(vae, X, keep=1, seed=3), vae.decode(drawn), atol=1e-5)
    with pytest.raises(ValueError, match="number of levels"):
        features.redraw(vae, X, keep=3)
    with pytest.raises(ValueError, match="hierarchy"):
        features.redraw(kvae.VAE(latent_dim=2, image_shape=SHAPE), X)


def test_temperature_of_each_level(vae):
    z, sizes = np.asarray(vae.prior.sample(2, 7)), vae.decoder.level_sizes
    expected = vae.decode(z * np.repeat([0.0, 0.5], sizes))
    np.testing.assert_allclose(vae.generate(2, seed=7, temperature=[0.0, 0.5]), expected, atol=1e-5)
    for temperature in ([1.0], [1.0, -1.0], "warm"):
        with pytest.raises(ValueError, match="temperature"):
            vae.generate(2, temperature=temperature)


def test_rates_of_layers_are_scored_and_diagnosed():
    vae = hierarchy()
    vae.encoder.posteriors[1].head.kernel.assign(0 * vae.encoder.posteriors[1].head.kernel)
    vae.encoder.posteriors[1].head.bias.assign(0 * vae.encoder.posteriors[1].head.bias)
    with pytest.warns(evaluation.EvaluationWarning):  # an untrained model
        scores = evaluation.evaluate(vae, X, num_samples=2000, proposal="auto")
    assert scores["proposal"] == "posterior"
    assert np.sum(scores["layer_rates"]) == pytest.approx(scores["rate"], rel=0.15)
    assert scores["layer_rates"][1] == pytest.approx(0, abs=1e-6)
    finding = next(finding for finding in evaluation.diagnose(scores) if finding.name == "unused layers")
    assert "from the top: 2" in finding.message


def test_pictures(vae):
    assert len(kvae.plotting.levels(vae, X[:4]).axes[0].get_yticks()) == 3
    rates = [3.0, 2.0, 1.0]
    figure = kvae.plotting.layer_rates(rates, [("2×2", 2), ("4×4", 1)])
    assert [bar.get_height() for bar in figure.axes[0].patches] == rates
    with pytest.raises(ValueError, match="a rate for each layer"):
        kvae.plotting.layer_rates(rates, [("2×2", 2)])


def test_conditional_hierarchy_uses_the_condition_in_both_passes():
    vae = hierarchy(condition_dim=3)
    q, other = (vae.encoder_params(X, vae.condition(np.full(12, label))) for label in (0, 1))
    z = tf.random.stateless_normal((2, 12, vae.latent_dim), (0, 1))
    assert np.abs(vae.decode(z[0], 0) - vae.decode(z[0], 1)).max() > 1e-3
    # The condition reaches the posterior through the state of the decoder, too.
    mixed = tf.concat([q[:, :-3], other[:, -3:]], axis=-1)
    densities = [np.asarray(vae.posterior.log_prob(params, z)) for params in (q, mixed, other)]
    assert np.abs(densities[1] - densities[0]).max() > 1e-3
    assert np.abs(densities[1] - densities[2]).max() > 1e-3
    assert features.extract(vae, (X, np.arange(12) % 3))["mean"].shape == (12, 16)


def test_features_are_those_of_the_top_level(vae, tmp_path):
    found = features.extract(vae, X)
    everything = vae.encode(X)
    np.testing.assert_allclose(found["mean"], everything.mean[:, :16], atol=1e-6)
    np.testing.assert_allclose(found["variance"], everything.variance[:, :16], rtol=1e-5)
    np.testing.assert_allclose(features.extract(vae, X, all_levels=True)["mean"], everything.mean, atol=1e-6)
    assert found["hidden"].shape == (12, 2 * 2 * 8)
    top = outputs.HierarchyLatents(vae.encoder, vae.decoder, vae.posterior)
    np.testing.assert_allclose(top(X)[0], found["mean"], atol=1e-6)
    trunk = features.feature_model(vae, "mean")
    trunk.save(tmp_path / "trunk.keras")
    again = keras.models.load_model(tmp_path / "trunk.keras")
    np.testing.assert_array_equal(again([X]), trunk([X]))
    moved = features.move(vae, X[:2], np.ones(vae.latent_dim), [0.0, 1.0])
    np.testing.assert_allclose(moved[:, 0], vae.decode(vae.encode_mean(X[:2])), atol=1e-5)
    assert features.classifier(vae, 3)(X).shape == (12, 3)
    with pytest.raises(ValueError, match="hidden"):
        features.classifier(vae, 3, output="mean")


@pytest.mark.parametrize(
    ("levels", "shape", "grids"),
    [
        ([(8, 1, 1, 4), (1, 1, 2, 4)], (11, 17, 3), [(2, 3, 1), (11, 17, 2)]),
        ([(16, 1, 1, 4), (4, 2, 2, 4)], (20, 30, 1), [(2, 2, 1), (5, 8, 2), (5, 8, 2)]),
    ],
)
def test_any_size(levels, shape, grids):
    vae = hierarchy(levels, shape)
    assert vae.decoder.layer_shapes == grids
    assert vae.reconstruct(np.zeros((2, *shape), "float32")).shape == (2, *shape)


@pytest.mark.parametrize("levels", [[], [(3, 1, 1, 4)], [(2, 1, 1, 4), (4, 1, 1, 4)], [(2, 1, 4)], [(2, 0, 1, 4)], 5])
def test_levels_that_cannot_be_meant(levels):
    with pytest.raises(ValueError, match="falling powers of 2"):
        networks.TopDown(SHAPE, levels)


def test_networks_that_do_not_fit():
    with pytest.raises(ValueError, match="same levels"):
        kvae.VAE(latent_dim=2, image_shape=SHAPE, posterior=posteriors.TopDownNormal())
    parts = networks.BottomUp(SHAPE, LEVELS), networks.TopDown(SHAPE, LEVELS)
    with pytest.raises(ValueError, match="vector of latents"):
        kvae.SemiSupervisedVAE(*parts, num_classes=3, posterior=posteriors.TopDownNormal())
    encoder, decoder = networks.BottomUp(SHAPE, LEVELS[:1]), networks.TopDown(SHAPE, LEVELS)
    with pytest.raises(ValueError, match="same levels"):
        kvae.VAE(encoder, decoder, posterior=posteriors.TopDownNormal())
