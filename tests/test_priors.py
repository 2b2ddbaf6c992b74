"""Every prior against SciPy in float64, the integral of its density, and its samples."""

import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from cases import PRIORS
from keras import ops
from scipy import optimize, special, stats

import kvae
from kvae import posteriors, priors
from kvae.distributions import normal_from_words, random_words, seed_words
from kvae.distributions.exact import exact_dense, exact_stretch, log_rational_scale, on_grid, rational_scale
from kvae.networks import MLP
from kvae.priors import base, flow_matching

D, CLASSES = 2, 3
CONDITION = np.array([0.5, -1.0, 2.0], "float32")


def vae_with(prior, latent_dim=D, **parts):
    return kvae.VAE(
        kvae.Encoder(latent_dim, body=MLP((8,))),
        kvae.Decoder((4, 4, 1), body=MLP((8,))),
        prior=prior,
        latent_dim=latent_dim,
        image_shape=(4, 4, 1),
        condition_dim=CLASSES if isinstance(prior, priors.ConditionalNormal) else None,
        **parts,
    )


@functools.cache
def made(name):
    """Return a VAE with this prior and two latents, with weights far from their initial values."""
    rng, vae = np.random.default_rng(3), vae_with(PRIORS[name]())
    size = 0.4 if isinstance(vae.prior, priors.RealNVP) else 0.7
    for weight in vae.prior.trainable_weights:
        weight.assign(rng.normal(scale=size, size=weight.shape))
    if isinstance(vae.prior, priors.FixedMixture):
        means, scales = rng.normal(size=(2, 3, D))
        lower = np.array([[1, 0], [-1.5, 1]]) * np.ones((3, 1, 1)) if vae.prior.full else None
        vae = vae.with_prior(priors.FixedMixture.of(rng.normal(size=3), 2 * means, np.exp(scales / 3), lower))
    if isinstance(vae.prior, priors.TopLevel):
        top = priors.FixedMixture.of(rng.normal(size=3), 2 * rng.normal(size=(3, 1)), np.full((3, 1), 0.4))
        vae = vae.with_prior(priors.TopLevel(top, 1))
    if isinstance(vae.prior, priors.FlowMatching):
        for weight in (*vae.prior.kernels, *vae.prior.biases):
            weight.assign(rng.normal(scale=0.35, size=weight.shape))
        vae.prior.means.assign([1.0, -2.0]), vae.prior.scales.assign([0.7, 2.0])
        vae.prior.mixing.assign([[1.0, -0.6], [0.0, 0.8]])
        vae.prior.whitening.assign(np.linalg.inv(vae.prior.mixing))
    return vae


@pytest.fixture(params=PRIORS, ids=lambda name: name.replace(" ", "-"))
def prior(request):
    return made(request.param).prior


def condition(prior, n):
    return np.tile(CONDITION, (n, 1)) if isinstance(prior, priors.ConditionalNormal) else None


def sample(prior, n, seed=0, temperature=1.0):
    return np.asarray(prior.sample(n, seed, temperature, condition(prior, n)), "float64")


# Densities in float64.


def scale(raw):
    return np.where(raw >= 0, 1 + raw, 1 / (1 + np.abs(raw)))


def mixture(z, log_weights, means, covariances):
    parts = [stats.multivariate_normal(m, c).logpdf(z) for m, c in zip(means, covariances)]
    return special.logsumexp(np.stack(parts, -1) + special.log_softmax(log_weights), axis=-1)


def scipy_conditional(prior, z):
    kernel, bias = (np.asarray(weight, "float64") for weight in prior.weights)
    mean, raw = np.split(CONDITION @ kernel + bias, 2)
    return stats.norm(mean, scale(raw)).logpdf(z).sum(-1)


def scipy_mixture(prior, z):
    logits, means, raw = (np.asarray(weight, "float64") for weight in prior.weights)
    return mixture(z, logits, means, [np.diag(scale(row) ** 2) for row in raw])


def scipy_vamp(prior, z):
    means, log_scales = (np.asarray(value, "float64") for value in prior.posteriors())
    return mixture(z, np.zeros(len(means)), means, [np.diag(np.exp(2 * row)) for row in log_scales])


def scipy_fixed(prior, z):
    means, scales = np.asarray(prior.means, "float64"), np.asarray(prior.scales, "float64")
    mixing = np.asarray(prior.mixing, "float64") if prior.full else np.broadcast_to(np.eye(D), (len(means), D, D))
    lower = scales[..., None] * np.swapaxes(mixing, -1, -2)
    return mixture(z, np.asarray(prior.log_weights), means, lower @ np.swapaxes(lower, -1, -2))


def forward(prior, z):
    """Return f(z) of the flow, in float64."""
    for coupling in prior.couplings:
        a, b = (z[:, 1:], z[:, :1]) if coupling.swap else (z[:, :1], z[:, 1:])
        h = a
        for i, layer in enumerate(coupling.network):
            kernel, bias = (np.asarray(weight, "float64") for weight in layer.weights)
            h = h @ kernel + bias
            h = np.maximum(h, 0) if i + 1 < len(coupling.network) else h
        raw, shift = np.split(h, 2, axis=-1)
        b = (b - shift) / scale(raw)
        z = np.concatenate([b, a] if coupling.swap else [a, b], axis=-1)
    return z


def scipy_flow(prior, z):
    """Compute the Jacobian by finite differences."""
    step = 1e-6
    columns = [(forward(prior, z + step * e) - forward(prior, z - step * e)) / (2 * step) for e in np.eye(D)]
    log_det = np.log(np.abs(np.linalg.det(np.stack(columns, -1))))
    return stats.norm.logpdf(forward(prior, z)).sum(-1) + log_det


def steps_of(prior, w):
    """Return the latents of noise `(B, D)` by the steps of a fitted flow, in float64."""
    weights = [np.asarray(weight, "float64") for weight in (*prior.kernels, *prior.biases)]
    kernels, biases = weights[: len(weights) // 2], weights[len(weights) // 2 :]
    for i in range(prior.steps):
        x = np.clip(w, -8, 8)
        for layer, (kernel, bias) in enumerate(zip(kernels, biases)):
            if layer:
                x = np.where(np.abs(x) < 1, (x + 1) ** 2 / 4, np.maximum(x, 0))
            x = x @ kernel + bias[i]
        w = w + np.pi / 2 / prior.steps * x
    means, scales, mixing = (np.asarray(value, "float64") for value in (prior.means, prior.scales, prior.mixing))
    return means + scales * (w @ mixing)


def scipy_flow_matching(prior, z):
    """Find the noise by Newton's method, and compute the Jacobian by finite differences."""
    noise = np.stack([optimize.root(lambda w, row=row: (steps_of(prior, w[None]) - row)[0], 0 * row).x for row in z])
    np.testing.assert_allclose(steps_of(prior, noise), z, atol=1e-7)
    e = 1e-6 * np.eye(D)
    columns = [(steps_of(prior, noise + row) - steps_of(prior, noise - row)) / 2e-6 for row in e]
    return stats.norm.logpdf(noise).sum(-1) - np.log(np.abs(np.linalg.det(np.stack(columns, -1))))


def scipy_top_level(prior, z):
    p = prior.prior
    log_weights, means, scales = (np.asarray(weight) for weight in (p.log_weights, p.means, p.scales))
    top = special.logsumexp(log_weights + stats.norm.logpdf(z[:, :1], means[:, 0], scales[:, 0]), axis=1)
    return top + stats.norm.logpdf(z[:, 1])


REFERENCES = {
    "StandardNormal": lambda prior, z: stats.norm.logpdf(z).sum(-1),
    "ConditionalNormal": scipy_conditional,
    "Mixture": scipy_mixture,
    "VampPrior": scipy_vamp,
    "RealNVP": scipy_flow,
    "FixedMixture": scipy_fixed,
    "FlowMatching": scipy_flow_matching,
    "TopLevel": scipy_top_level,
}


def test_density_equals_scipy_in_float64(prior):
    z = np.random.default_rng(0).normal(scale=2, size=(50, D)).astype("float32")
    right = REFERENCES[type(prior).__name__](prior, z.astype("float64"))
    log_prob = np.asarray(prior.log_prob(z, condition(prior, 50)))
    # float32: a relative error of about 2⁻²² in z − μ, which is divided by a small scale and squared.
    np.testing.assert_allclose(log_prob, right, rtol=2e-5, atol=2e-5)
    together = prior.log_prob(np.stack([z, 2 * z]), condition(prior, 50))  # (K, B, D)
    np.testing.assert_allclose(together[0], log_prob, rtol=1e-5)
    assert together.shape == (2, 50)


CELLS, EDGE = 400, 24.0


@functools.cache
def cells(name):
    """Return the probability of each cell of a grid, `(CELLS, CELLS)`, by the density at its centre, and centres."""
    prior = made(name).prior
    middle = ((np.arange(CELLS) + 0.5) / CELLS * 2 - 1) * EDGE
    z = np.stack(np.meshgrid(middle, middle, indexing="ij"), -1).reshape(-1, D).astype("float32")
    log_prob = np.asarray(prior.log_prob(z, condition(prior, len(z))), "float64")
    return np.exp(log_prob).reshape(CELLS, CELLS) * (2 * EDGE / CELLS) ** 2, middle


@pytest.mark.slow
@pytest.mark.parametrize("name", PRIORS)
def test_density_integrates_to_one_and_samples_follow_it(name):
    p, middle = cells(name)
    assert p.sum() == pytest.approx(1, abs=2e-3)  # the flow has kinks and tails beyond the grid
    n = 40_000
    z = sample(made(name).prior, n, seed=1)
    for axis in range(D):
        marginal = p.sum(1 - axis)
        mean = marginal @ middle
        variance = marginal @ (middle - mean) ** 2
        fourth = marginal @ (middle - mean) ** 4
        # Five standard errors of a mean and of a variance, and the error of the integral.
        assert abs(z[:, axis].mean() - mean) < 5 * np.sqrt(variance / n) + 1e-2
        assert abs(z[:, axis].var() - variance) < 5 * np.sqrt((fourth - variance**2) / n) + 2e-2 * variance
    # χ² of the numbers of samples in coarse cells with at least 20 expected samples.
    coarse = p.reshape(CELLS // 4, 4, CELLS // 4, 4).sum((1, 3))
    edges = np.linspace(-EDGE, EDGE, CELLS // 4 + 1)
    counts = np.histogram2d(z[:, 0], z[:, 1], [edges, edges])[0]
    usual = coarse * n >= 20
    expected = np.append(coarse[usual], 1 - coarse[usual].sum()) * n
    got = np.append(counts[usual], n - counts[usual].sum())
    assert stats.chi2.sf(np.sum((got - expected) ** 2 / expected), usual.sum()) > 1e-4


def test_temperature_zero_gives_typical_latents(prior):
    z = sample(prior, 6, temperature=0.0)
    np.testing.assert_array_equal(z, sample(prior, 6, temperature=0.0))
    if isinstance(prior, priors.RealNVP):
        np.testing.assert_allclose(forward(prior, z), 0, atol=1e-3)
    elif isinstance(prior, priors.ConditionalNormal):
        mean = CONDITION @ np.asarray(prior.kernel)[:, :D] + np.asarray(prior.bias)[:D]
        np.testing.assert_allclose(z, np.tile(mean, (6, 1)), atol=1e-4)
    elif isinstance(prior, priors.StandardNormal):
        assert not np.any(z)
    elif isinstance(prior, priors.TopLevel):
        assert set(z[:, 0]) <= set(np.asarray(prior.prior.means)[:, 0])
        assert not np.any(z[:, 1])
    elif isinstance(prior, priors.FlowMatching):
        np.testing.assert_allclose(z, steps_of(prior, np.zeros((6, D))), atol=1e-3)
    else:
        means = np.asarray(prior.fixed().means)
        assert all(np.any(np.all(means == row, axis=1)) for row in z.astype("float32"))


def test_row_depends_only_on_seed_and_index(prior, monkeypatch):
    z = sample(prior, 10, seed=5)
    index = np.array([7, 2, 7], "int32")
    np.testing.assert_array_equal(prior.draw(seed_words(5), index, 1.0, condition(prior, 3)), z[index])
    assert np.any(z != sample(prior, 10, seed=6))
    monkeypatch.setattr(base, "PIECE", 4)
    np.testing.assert_array_equal(sample(prior, 10, seed=5), z)


@pytest.mark.parametrize("name", PRIORS)
def test_config_and_weights_round_trip(name, tmp_path):
    vae = made(name)
    vae.save(tmp_path / "vae.keras")
    again = keras.saving.load_model(tmp_path / "vae.keras").prior
    configs = (json.dumps(prior.get_config(), sort_keys=True) for prior in (again, vae.prior))  # tuples become lists
    assert next(configs) == next(configs)
    np.testing.assert_array_equal(sample(again, 5), sample(vae.prior, 5))
    z = np.ones((4, D), "float32")
    np.testing.assert_array_equal(
        again.log_prob(z, condition(again, 4)), vae.prior.log_prob(z, condition(vae.prior, 4))
    )


@pytest.mark.parametrize("name", PRIORS)
def test_gradients_of_every_weight_and_finite_extremes(name):
    prior = vae_with(PRIORS[name]()).prior  # with initial weights
    z = np.random.default_rng(0).normal(size=(64, D)).astype("float32")
    c = None if condition(prior, 1) is None else np.random.default_rng(1).normal(size=(64, CLASSES)).astype("float32")
    weights = prior.trainable_weights

    def gradients(z):
        with tf.GradientTape() as tape:
            log_prob = ops.sum(prior.log_prob(z, c))
        return log_prob, tape.gradient(log_prob, [weight.value for weight in weights])

    if not isinstance(prior, priors.RealNVP):  # its hidden layers have no gradient while the last kernels are 0
        assert all(np.any(gradient) for gradient in gradients(z)[1])
    for magnitude in (1e3, -1e3):
        for weight in weights:
            # In a flow, only the last biases: raw scales and shifts.
            if not isinstance(prior, priors.RealNVP) or weight.shape == (D,):
                weight.assign(np.full(weight.shape, magnitude))
        for value in (z, 1e3 * z):
            log_prob, got = gradients(value)
            assert np.isfinite(log_prob)
            assert all(np.all(np.isfinite(gradient)) for gradient in got)
        assert np.all(np.isfinite(prior.sample(8, 0, 1.0, None if c is None else c[:8])))


def test_fixed_is_the_same_distribution(prior):
    fixed = prior.fixed()
    assert fixed.fixed() is fixed
    z = np.random.default_rng(0).normal(size=(20, D)).astype("float32")
    c = condition(prior, 20)
    np.testing.assert_allclose(fixed.log_prob(z, c), prior.log_prob(z, c), rtol=1e-5, atol=1e-5)


# Exactness.


def test_exact_dense():
    rng = np.random.default_rng(0)
    x, kernel, bias = (rng.normal(size=shape).astype("float32") for shape in ((9, 200), (200, 4), (4,)))
    got = np.asarray(exact_dense(x, kernel.reshape(1, -1), bias))
    # The error of each of 201 terms is less than 2⁻¹⁷.
    np.testing.assert_allclose(got, x.astype("float64") @ kernel + bias, rtol=2**-23, atol=201 * 2**-17)
    order = rng.permutation(200)
    np.testing.assert_array_equal(exact_dense(x[:, order], kernel[order].reshape(1, -1), bias), got)
    np.testing.assert_array_equal(exact_dense(x, np.tile(kernel.reshape(1, -1), (9, 1)), bias), got)
    huge = np.asarray(exact_dense(1e30 * np.ones((1, 200), "float32"), np.ones((1, 200), "float32")))
    assert huge == pytest.approx(2**14 * 200 / 201, rel=1e-4)  # clipped; the sum doesn't wrap


def test_rational_scale_and_its_exact_product():
    raw = np.concatenate([np.linspace(-5, 5, 101), [-1e3, 0, 1e3]]).astype("float32")
    np.testing.assert_allclose(rational_scale(raw), scale(raw.astype("float64")), rtol=1e-6)
    np.testing.assert_allclose(log_rational_scale(raw), np.log(scale(raw.astype("float64"))), rtol=1e-5, atol=1e-7)
    x = np.random.default_rng(0).normal(size=raw.shape).astype("float32")
    np.testing.assert_allclose(exact_stretch(x, raw), x * scale(raw.astype("float64")), rtol=1e-6, atol=2**-24)
    zero = tf.zeros(1)
    for function in (rational_scale, log_rational_scale):
        with tf.GradientTape() as tape:
            tape.watch(zero)
            value = function(zero)
        assert float(tape.gradient(value, zero)[0]) == 1.0


def test_on_grid_does_not_change_numbers_from_one_on():
    x = np.random.default_rng(0).normal(scale=100, size=10_000).astype("float32")
    got = np.asarray(on_grid(x))
    np.testing.assert_array_equal(got[np.abs(x) >= 1], x[np.abs(x) >= 1])
    assert np.all((x - got >= 0) & (x - got < 2**-24))
    assert float(on_grid(np.zeros(1, "float32"))[0]) == 0.0


def test_exact_samples_of_mixtures_are_close_to_float64():
    """They are within 10⁻³ of a component's standard deviation, for correlations of 64 latents."""
    rng, d = np.random.default_rng(0), 64
    lower = np.tril(rng.normal(size=(3, d, d)))
    scales = 10.0 ** rng.uniform(-3, 1, (3, d))
    prior = priors.FixedMixture.of([0.0, 1.0, -1.0], rng.normal(size=(3, d)), scales, lower)
    words = random_words(seed_words(0), np.arange(500, dtype="int32"), d + 1)
    z, epsilon = prior.from_words(words), np.asarray(normal_from_words(words[:, 1:]), "float64")
    u = (np.asarray(words[:, 0], "float64") + 2**31) / 2**32
    k = np.searchsorted(np.cumsum(special.softmax([0.0, 1.0, -1.0])), u)
    right = np.asarray(prior.means)[k] + scales[k] * np.einsum("bij,bj->bi", lower[k], epsilon)
    deviation = (np.asarray(z) - right) / (scales * np.sqrt(np.sum(lower**2, -1)))[k]
    assert np.abs(deviation).max() < 1e-3


def test_exact_samples_of_a_flow_are_close_to_its_inverse():
    """f(z) of a sample equals its noise within 10⁻², for 8 couplings of 16 latents."""
    rng = np.random.default_rng(0)
    prior = priors.RealNVP()
    prior.build((None, 16))
    for coupling in prior.couplings:
        for layer in coupling.network:
            layer.kernel.assign(rng.normal(scale=0.7 / np.sqrt(layer.kernel.shape[0]), size=layer.kernel.shape))
            layer.bias.assign(rng.normal(scale=0.3, size=layer.bias.shape))
    words = random_words(seed_words(0), np.arange(500, dtype="int32"), 16)
    u = prior.from_words(words)
    for coupling in prior.couplings:
        u, _ = coupling(u)
    assert np.abs(np.asarray(u) - np.asarray(normal_from_words(words))).max() < 1e-2


@pytest.mark.slow
def test_exact_samples_of_flow_matching_are_close_to_its_inverse():
    """The noise of samples is found within 10⁻², for 8 steps of 16 latents."""
    rng, prior = np.random.default_rng(0), priors.FlowMatching(iterations=24)
    prior.build((None, 16))
    for weight in (*prior.kernels, *prior.biases):
        weight.assign(rng.normal(scale=0.8 / np.sqrt(weight.shape[0]), size=weight.shape))
    words = random_words(seed_words(0), np.arange(200, dtype="int32"), 16)
    noise, _ = prior.invert(prior.from_words(words))
    assert np.abs(np.asarray(noise) - np.asarray(normal_from_words(words))).max() < 1e-2


# Tests of single priors.


def two_moons(n, seed=0):
    rng = np.random.default_rng(seed)
    angle, upper = rng.uniform(0, np.pi, n), rng.integers(2, size=n)
    z = np.stack([np.cos(angle) + upper - 0.5, (np.sin(angle) - 0.25) * (1 - 2 * upper)], axis=-1)
    return 3 * z + 0.3 * rng.normal(size=(n, 2)) + [5, 0]


@functools.cache
def fitted_flow():
    """Return a flow that is fitted to two moons in a few seconds."""
    return priors.fit_flow_matching(two_moons(5000), units=(32, 32), num_train_steps=600, batch_size=256)


@pytest.mark.slow
def test_fitted_flow_is_closer_to_two_moons_than_a_normal_distribution(tmp_path):
    latents, held_out = two_moons(5000), two_moons(1000, seed=1)
    prior = fitted_flow()
    assert prior.iterations > 0
    normal = stats.multivariate_normal(latents.mean(0), np.cov(latents.T)).logpdf(held_out).mean()
    assert np.mean(prior.log_prob(held_out)) > normal + 0.2
    z = sample(prior, 5000)
    np.testing.assert_allclose(z.mean(0), latents.mean(0), atol=0.3)
    np.testing.assert_allclose(z.std(0), latents.std(0), rtol=0.1)
    vae = vae_with(priors.StandardNormal()).with_prior(prior)
    vae.save(tmp_path / "vae.keras")
    again = keras.saving.load_model(tmp_path / "vae.keras")
    np.testing.assert_array_equal(again.generate(3, seed=0), vae.generate(3, seed=0))
    np.testing.assert_array_equal(again.prior.log_prob(z[:9]), prior.log_prob(z[:9]))


@pytest.mark.slow
def test_density_of_a_fitted_flow_integrates_to_one():
    """A fold of the map, on which samples have two densities, would show here."""
    grid = np.linspace(-6, 16, 120), np.linspace(-9, 9, 120)
    z = np.stack(np.meshgrid(*grid), -1).reshape(-1, 2).astype("float32")
    density = np.exp(np.asarray(fitted_flow().log_prob(z), "float64"))
    assert density.sum() * np.prod([axis[1] - axis[0] for axis in grid]) == pytest.approx(1, abs=1e-2)


@pytest.mark.slow
def test_flow_fit_is_deterministic():
    few = {"units": (4,), "steps": 2, "num_train_steps": 25, "batch_size": 32}
    first, same, other = (priors.fit_flow_matching(two_moons(100), **few, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(sample(first, 5), sample(same, 5))
    assert np.any(sample(first, 5) != sample(other, 5))


@pytest.mark.slow
def test_density_is_refused_where_a_flow_cannot_be_inverted(monkeypatch):
    monkeypatch.setattr(flow_matching, "ERROR", 0.0)
    with pytest.warns(UserWarning, match="samples, but no density"):
        prior = priors.fit_flow_matching(two_moons(50), units=(4,), steps=1, num_train_steps=1)
    assert np.all(np.isfinite(prior.sample(5, seed=0)))
    with pytest.raises(ValueError, match="no density"):
        prior.log_prob(np.zeros((1, 2)))


def test_density_is_nan_where_iterations_diverge():
    prior = priors.FlowMatching(units=(1,), steps=1)
    prior.build((None, 1))
    prior.kernels[0].assign([[3.0]]), prior.kernels[1].assign([[3.0]])  # the step is 15 w for w > ⅓
    assert np.all(np.isnan(prior.log_prob(np.ones((3, 1)))))


@pytest.mark.slow
def test_constant_latents_are_fitted():
    latents = np.concatenate([two_moons(200), np.full((200, 1), 7.0)], axis=1)
    z = sample(priors.fit_flow_matching(latents, units=(4,), steps=2, num_train_steps=20), 50)
    np.testing.assert_allclose(z[:, 2], 7, atol=0.02)


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_fitted_mixture_equals_scikit_learn(covariance_type, tmp_path):
    from sklearn.mixture import GaussianMixture

    rng = np.random.default_rng(0)
    latents = np.concatenate([rng.normal(size=(300, D)) @ [[1, 0.9], [0, 0.3]] + 4, rng.normal(size=(200, D))])
    prior = priors.fit_mixture(latents, components=2, covariance_type=covariance_type, seed=0)
    right = GaussianMixture(2, covariance_type=covariance_type, random_state=0).fit(latents)
    np.testing.assert_allclose(prior.log_prob(latents), right.score_samples(latents), rtol=1e-4, atol=1e-4)
    z = sample(prior, 20_000)
    assert np.abs(z.mean(0) - latents.mean(0)).max() < 5 * np.sqrt(latents.var(0).max() / len(z))
    np.testing.assert_allclose(z.var(0), latents.var(0), rtol=5 * np.sqrt(2 / len(z)))  # five standard errors
    vae = vae_with(priors.StandardNormal()).with_prior(prior)
    vae.save(tmp_path / "vae.keras")
    again = keras.saving.load_model(tmp_path / "vae.keras")
    np.testing.assert_array_equal(again.generate(3, seed=0), vae.generate(3, seed=0))


@pytest.mark.parametrize("posterior", [posteriors.DiagonalNormal, posteriors.FullCovarianceNormal])
def test_vamp_prior_equals_the_mean_of_posteriors(posterior):
    vae = vae_with(priors.VampPrior(pseudo_inputs=5), latent_dim=3, posterior=posterior())
    prior = vae.prior
    assert len(prior.weights) == 1
    assert len(vae.weights) == len({id(weight.value) for weight in vae.weights})
    z = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
    prior.images.assign(np.random.default_rng(1).uniform(-0.5, 1.5, prior.images.shape))
    q = vae.encoder(np.clip(prior.images, 0, 1))
    right = special.logsumexp([vae.posterior.log_prob(q[k : k + 1], z[:, None])[:, 0] for k in range(5)], axis=0)
    np.testing.assert_allclose(prior.log_prob(z), right - np.log(5), rtol=1e-4)
    np.testing.assert_allclose(prior.fixed().log_prob(z), right - np.log(5), rtol=1e-4)
    with tf.GradientTape() as tape:
        log_prob = prior.log_prob(z)
    weights = [*prior.trainable_weights, *vae.encoder.trainable_weights]
    assert all(np.any(gradient) for gradient in tape.gradient(log_prob, [weight.value for weight in weights]))


@pytest.mark.slow
def test_vamp_prior_trains(digits):
    vae = vae_with(priors.VampPrior(pseudo_inputs=4))
    vae.compile(optimizer="adam", jit_compile=False)
    before = np.array(vae.prior.images)
    vae.fit(digits[0][:64, 2:6, 2:6], batch_size=32, verbose=0)
    assert np.all(np.asarray(vae.prior.images) != before)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: priors.Mixture(components=0), "components=0"),
        (lambda: priors.FixedMixture(components=0), "components=0"),
        (lambda: priors.VampPrior(pseudo_inputs=0), "pseudo_inputs=0"),
        (lambda: priors.VampPrior(stddev=-1.0), "stddev=-1.0"),
        (lambda: priors.VampPrior().build((None, 2)), r"VAE\(prior=...\)"),
        (lambda: kvae.VAE(prior=priors.VampPrior(), latent_dim=2, image_shape=(8, 8, 1), condition_dim=3), "dim=3"),
        (lambda: vae_with(priors.VampPrior(), posterior=posteriors.InverseAutoregressive()), "InverseAutoregressive"),
        (lambda: priors.ConditionalNormal(condition_dim=0), "condition_dim=0"),
        (lambda: priors.ConditionalNormal().build((None, 2)), "condition_dim=None"),
        (lambda: kvae.VAE(prior=priors.ConditionalNormal(), latent_dim=2, image_shape=(8, 8, 1)), "dim=None"),
        (lambda: vae_with(priors.ConditionalNormal(condition_dim=5)), "condition_dim=3"),
        (lambda: made("ConditionalNormal").prior.sample(2, seed=0), "condition=None"),
        (lambda: priors.RealNVP(num_layers=0), "num_layers=0"),
        (lambda: priors.fit_mixture(np.zeros((5, 2)), covariance_type="tied"), "covariance_type='tied'"),
        (lambda: priors.fit_mixture(np.zeros(5)), r"shape \(5,\)"),
        (lambda: priors.FlowMatching(units=()), r"units=\(\)"),
        (lambda: priors.FlowMatching(steps=0), "steps=0"),
        (lambda: priors.FlowMatching(iterations=65), "iterations=65"),
        (lambda: vae_with(priors.FlowMatching(iterations=0)).prior.log_prob(np.zeros((1, D))), "no density"),
        (lambda: priors.fit_flow_matching(np.zeros(5)), r"shape \(5,\)"),
        (lambda: priors.fit_flow_matching(np.zeros((3, 5))), r"N > D. Received: shape \(3, 5\)"),
        (lambda: priors.fit_flow_matching(np.full((5, 2), np.nan)), "NaN or infinity"),
        (lambda: priors.fit_flow_matching(np.ones((5, 2)), num_train_steps=0), "num_train_steps=0"),
        (lambda: priors.fit_flow_matching(np.ones((5, 2)), batch_size=0), "batch_size=0"),
        (lambda: priors.fit_flow_matching(np.ones((5, 2)), learning_rate=0.0), "learning_rate=0.0"),
    ],
)
def test_invalid_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_prior_of_another_model_is_refused():
    def vae(latent_dim, **parts):
        networks = kvae.networks
        encoder, decoder = (
            networks.Encoder(latent_dim, networks.MLP((8,))),
            networks.Decoder((8, 8, 1), networks.MLP((8,))),
        )
        return kvae.VAE(encoder, decoder, **parts)

    first = vae(2, prior=priors.VampPrior(4))
    assert first.with_prior(first.prior).prior is first.prior
    with pytest.raises(ValueError, match="belongs to another model"):
        vae(2, prior=first.prior)
    with pytest.raises(ValueError, match=r"prior of 3 latents.*built for 2"):
        vae(3, prior=first.prior.fixed())
    conditional = vae(2, prior=priors.ConditionalNormal(), condition_dim=3)
    with pytest.raises(ValueError, match="requires a conditional model"):
        vae(2, prior=conditional.prior)
    first.step.assign(7)
    assert int(first.with_prior(priors.StandardNormal()).step) == 7
