"""Objectives and schedules against their formulas."""

import itertools

import cases
import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import special, stats
from scipy.spatial.distance import cdist

import kvae
from kvae import distributions, likelihoods, networks, objectives, posteriors, priors, schedules
from kvae.objectives.mmd import mmd2
from kvae.schedules import schedule_value

RATE = objectives.Terms(
    distortion=np.asarray([[1.0, 2.0], [3.0, 6.0]], "float32"),
    rate=np.asarray([0.5, 1.5], "float32"),
    log_weight=None,
    z=None,
    z_mean=None,
)
K, B, D = 6, 5, 3


def small_vae(objective=None, **kwargs):
    encoder, decoder = networks.Encoder(D, networks.MLP((8,))), networks.Decoder((4, 4, 1), networks.MLP((8,)))
    return kvae.VAE(encoder, decoder, objective=objective, latent_dim=D, image_shape=(4, 4, 1), **kwargs)


def images(n=B):
    return np.random.default_rng(0).random((n, 4, 4, 1)).astype("float32")


@pytest.fixture(scope="module")
def terms():
    """Return the terms of a VAE whose posterior isn't near the prior."""
    vae = small_vae()
    vae.set_weights([np.random.default_rng(1).normal(0, 0.5, w.shape).astype(w.dtype) for w in vae.get_weights()])
    return vae.terms(tf.constant(images()), vae.noise(0), K, training=True)


def float64(*values):
    return (np.asarray(value, "float64") for value in values)


# Each objective against its formula.


def elbo(t):
    return np.mean(t.distortion, axis=0) + np.asarray(t.rate)


def posterior_of(t):
    mean, log_scale = float64(*t.posterior.split(t.q))
    return stats.norm(mean, np.exp(log_scale))  # shape (…, B, D)


def rate_per_latent(t):
    q = posterior_of(t)
    return 0.5 * (q.mean() ** 2 + q.var() - 1) - np.log(q.std())


def bound(log_weight, axis=0):
    return special.logsumexp(np.asarray(log_weight, "float64"), axis=axis) - np.log(log_weight.shape[axis])


def tc_parts(t, n, stratified):
    """Return mutual information, total correlation and the rest for each sample, by loops over the definition."""
    q, (z,) = posterior_of(t), float64(t.z)
    log_q = q.logpdf(z[:, :, None])  # z_i under x_j, (K, B, B, D)
    share = np.full((B, B), 1 / (n * B))
    if stratified:
        m = B - 1  # the batch size is M + 1
        share = np.full((B, B), 1 / m)
        for i in range(B):
            share[i, i], share[i, (i + 1) % B] = 1 / n, (n - m) / (n * m)
    density = np.log(np.einsum("kij,ij->ki", np.exp(log_q.sum(-1)), share))
    product = np.log(np.einsum("kijd,ij->kid", np.exp(log_q), share)).sum(-1)
    return np.asarray(t.log_q) - density, density - product, product - np.asarray(t.log_p)


def tc(t, weights, n, stratified=False):
    return elbo(t) + sum((w - 1) * part.mean(0) for w, part in zip(weights, tc_parts(t, n, stratified)))


def dip(t, off, diagonal, means_only):
    q = posterior_of(t)
    covariance = np.cov(q.mean().T, bias=True) + (0 if means_only else np.diag(q.var().mean(0)))
    excess = (covariance - np.eye(D)) ** 2
    return elbo(t) + off * (excess.sum() - np.trace(excess)) + diagonal * np.trace(excess)


def mmd(t, weight, beta, kernel):
    """Compute the objective with the same samples of the prior."""
    y = np.asarray(prior_samples(t), "float64")
    off = ~np.eye(B, dtype=bool)
    values = [
        kernel(cdist(z, z))[off].mean() + kernel(cdist(y, y))[off].mean() - 2 * kernel(cdist(z, y)).mean()
        for z in np.asarray(t.z, "float64")
    ]
    return np.mean(t.distortion, axis=0) + beta * np.asarray(t.rate) + weight * np.mean(values)


def prior_samples(t):
    noise = kvae.distributions.Noise(t.noise.seed, t.noise.step)
    noise.draws = t.noise.draws
    return t.prior.draw(noise.next(), np.arange(B, dtype="int32"))


FORMULAS = [
    (objectives.ELBO(3.0), lambda t: np.mean(t.distortion, axis=0) + 3 * np.asarray(t.rate)),
    (
        objectives.FreeBits(0.4),
        lambda t: np.mean(t.distortion, axis=0) + np.maximum(0.4, rate_per_latent(t).mean(0)).sum(),
    ),
    (
        objectives.Capacity(2.0, gamma=7.0),
        lambda t: np.mean(t.distortion, axis=0) + 7 * np.abs(rate_per_latent(t).sum(-1) - 2.0),
    ),
    (objectives.IWAE(K), lambda t: -bound(t.log_weight)),
    (objectives.DReG(K), lambda t: -bound(t.log_weight)),
    (objectives.PIWAE(K, num_groups=2), lambda t: -bound(t.log_weight)),
    (objectives.MIWAE(K, num_groups=1), lambda t: -bound(t.log_weight)),
    (objectives.MIWAE(K, num_groups=K), lambda t: -np.mean(t.log_weight, axis=0)),
    (
        objectives.MIWAE(K, num_groups=2),
        lambda t: -(bound(t.log_weight[:3]) + bound(t.log_weight[3:])) / 2,
    ),
    (
        objectives.CIWAE(K, beta=0.25),
        lambda t: -0.25 * np.mean(t.log_weight, axis=0) - 0.75 * bound(t.log_weight),
    ),
    (objectives.TotalCorrelation(1.0, dataset_size=9), elbo),
    (objectives.TotalCorrelation(4.0, dataset_size=9), lambda t: tc(t, (1, 4, 1), 9)),
    (
        objectives.TotalCorrelation(4.0, 9, alpha=0.5, gamma=2.0, stratified=True),
        lambda t: tc(t, (0.5, 4, 2), 9, stratified=True),
    ),
    (objectives.DIP(2.0, 3.0), lambda t: dip(t, 2, 3, False)),
    (objectives.DIP(2.0, 3.0, means_only=True), lambda t: dip(t, 2, 3, True)),
    (objectives.MMD(5.0), lambda t: mmd(t, 5, 0, lambda d: 2 * D / (2 * D + d**2))),
    (
        objectives.MMD(5.0, beta=0.5, kernel=objectives.RBF(0.5)),
        lambda t: mmd(t, 5, 0.5, lambda d: np.exp(-(d**2) / D)),
    ),
]


@pytest.mark.parametrize(("objective", "formula"), FORMULAS, ids=lambda part: type(part).__name__)
def test_objective_equals_its_formula(objective, formula, terms):
    expected = formula(terms)  # before the objective, because it copies the state of the noise
    np.testing.assert_allclose(objective(terms), expected, rtol=2e-5)  # float32 against float64


@pytest.mark.parametrize(
    ("beta", "step", "expected"),
    [
        (1.0, None, [2.5, 5.5]),
        (0.0, None, [2.0, 4.0]),
        (4.0, None, [4.0, 10.0]),
        (schedules.LinearWarmup(steps=10), 5, [2.25, 4.75]),
        (schedules.LinearWarmup(steps=10), None, [2.5, 5.5]),
        (schedules.Cyclical(steps=10, cycles=2), 12, [2.2, 4.6]),
        (keras.optimizers.schedules.PolynomialDecay(1.0, 10, 0.0), 5, [2.25, 4.75]),
    ],
)
def test_elbo_is_distortion_plus_beta_rate(beta, step, expected):
    np.testing.assert_allclose(objectives.ELBO(beta)(RATE, step), expected, rtol=1e-6)


def test_free_bits_of_a_posterior_with_dependent_latents(terms):
    """All latents form one group with the free bits of all latents."""
    whole = terms._replace(posterior=posteriors.FullCovarianceNormal())
    mean_rate = float(np.mean(terms.rate))
    for free_bits, expected in ((0.0, mean_rate), (100.0, 100.0 * D)):
        loss = objectives.FreeBits(free_bits)(whole)
        np.testing.assert_allclose(loss, np.mean(terms.distortion, axis=0) + expected, rtol=1e-5)


# Objectives on distributions with a known answer.


def normal_terms(mean, scale, noise=0):
    """Return the terms of q(z|x_i) = N(mean_i, scale²), with one sample each."""
    posterior, prior = posteriors.DiagonalNormal(), priors.StandardNormal()
    low, high = np.log(1e-3), np.log(1e3)
    bound = low if scale < 1 else high
    raw = np.full_like(mean, bound * np.arctanh(np.log(scale) / bound))  # the inverse of the bounded log-scale
    q = np.concatenate([mean, raw], axis=1).astype("float32")
    posterior.build((None, q.shape[1]))
    prior.build((None, mean.shape[1]))
    z, log_q = posterior.sample_and_log_prob(q, 1, distributions.Noise(noise))
    zeros = np.zeros(len(mean), "float32")
    return objectives.Terms(
        zeros[None], zeros, None, z, posterior.mean(q), log_q, prior.log_prob(z), q, posterior, prior,
        distributions.Noise(noise, 1),
    )  # fmt: skip


def test_total_correlation_of_a_normal():
    """The total correlation is −½ log det of the correlation matrix."""
    rho, n = 0.8, 1500
    mean = np.random.default_rng(0).multivariate_normal([0, 0], [[1, rho], [rho, 1]], n)
    t = normal_terms(mean, 0.3)
    log_qz, log_qz_product = objectives.TotalCorrelation(2.0, n, stratified=True).log_aggregates(t)
    correlation = rho / (1 + 0.3**2)
    expected = -0.5 * np.log(1 - correlation**2)  # 0.44 nats
    got = np.asarray(log_qz - log_qz_product)
    # Sampling error, and 0.03 for q(z) from 1500 kernels, including the kernel of z itself.
    assert got.mean() == pytest.approx(expected, abs=4 * got.std() / np.sqrt(n) + 0.03)


@pytest.mark.parametrize("kernel", [objectives.RBF(), objectives.IMQ(0.5)])
def test_mmd_is_zero_only_for_equal_distributions(kernel):
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(2, 200, 30, 4)).astype("float32")
    equal, shifted = (np.asarray(mmd2(kernel, z + shift, y)) for shift in (0.0, 0.5))
    assert abs(equal.mean()) < 4 * equal.std() / np.sqrt(200)
    assert equal.min() < 0  # unbiased
    assert shifted.mean() > 20 * shifted.std() / np.sqrt(200)


@pytest.mark.parametrize("means_only", [True, False])
def test_dip_is_zero_for_uncorrelated_latents_with_variance_1(means_only):
    mean = np.asarray(list(itertools.product([-1.0, 1.0], repeat=3)))  # covariance: the identity
    t = normal_terms(mean if means_only else 0.8 * mean, 0.6)  # 0.8² + 0.6² = 1
    np.testing.assert_allclose(objectives.DIP(10.0, 10.0, means_only)(t), 0.0, atol=1e-5)
    correlated = normal_terms(np.repeat(mean[:, :1], 3, axis=1), 0.6)
    assert np.min(objectives.DIP(10.0, 0.0, means_only)(correlated)) > 10


def test_bounds_rise_from_the_elbo_to_the_evidence():
    """x = z + ε with variance 1 each, and q(z|x) = N(x/2 + 0.3, 1), which is inexact: log p(x) = log N(x; 0, 2)."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, np.sqrt(2), 20_000)
    z = rng.normal(x / 2 + 0.3, 1.0, (16, len(x)))
    log_weight = stats.norm.logpdf(x, z) + stats.norm.logpdf(z) - stats.norm.logpdf(z, x / 2 + 0.3, 1.0)
    t = RATE._replace(log_weight=tf.constant(log_weight, "float32"))
    bounds = [
        objectives.MIWAE(16, num_groups=16),  # the ELBO
        objectives.CIWAE(16, beta=0.5),
        objectives.MIWAE(16, num_groups=4),
        objectives.IWAE(16),
    ]
    values = [-float(np.mean(objective(t))) for objective in bounds]
    evidence = stats.norm.logpdf(x, 0, np.sqrt(2)).mean()
    # KL(q ‖ p(z|x)) = ½ (2 · (1 + 0.3²) − 1 − log 2), from 20 000 examples with variance about 1, 16 samples each
    gap = 0.5 * (2 * (1 + 0.3**2) - 1 - np.log(2))
    assert values[0] == pytest.approx(evidence - gap, abs=4 / np.sqrt(16 * 20_000))
    assert values == sorted(values)
    assert values[1] > values[0] + 0.05
    assert values[3] < evidence + 4 / np.sqrt(16 * 20_000)
    assert values[3] == pytest.approx(evidence, abs=0.05)


# Gradients that differ from the gradient of the loss.


def gradients(objective, step=0, x=None):
    """Return the gradients of the encoder's and of the decoder's weights, each as one vector."""
    vae = objective if isinstance(objective, kvae.VAE) else seeded_vae(objective)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(
            vae.batch_values(tf.constant(images() if x is None else x), vae.noise(step), True)["loss"]
        )
    parts = vae.encoder.trainable_weights, vae.decoder.trainable_weights
    return [tf.concat([tf.reshape(g, [-1]) for g in part], 0) for part in tape.gradient(loss, parts)]


def seeded_vae(objective):
    vae = small_vae(objective, likelihood=likelihoods.Normal(0.5))
    rng = np.random.default_rng(2)
    vae.encoder.set_weights([rng.normal(0, 0.3, w.shape) for w in vae.encoder.get_weights()])
    vae.decoder.set_weights([rng.normal(0, 0.3, w.shape) for w in vae.decoder.get_weights()])
    return vae


def test_dreg_gradient_equals_equation_8():
    vae = seeded_vae(objectives.DReG(K))
    x = tf.constant(images())
    encoder, decoder = gradients(vae)
    np.testing.assert_allclose(decoder, gradients(objectives.IWAE(K))[1], rtol=1e-4, atol=1e-6)
    with tf.GradientTape() as outer:
        q = vae.encoder(x)
        z = vae.posterior.sample(q, K, vae.noise(0))
    with tf.GradientTape() as inner:  # z and q are constants here
        inner.watch(z)
        log_weight = vae.likelihood.log_prob(vae.decoder_params(z), x) + vae.prior.log_prob(z)
        log_weight -= vae.posterior.log_prob(q, z)
    w = tf.nn.softmax(log_weight, axis=0)[..., None]
    towards_z = -(w**2) * inner.gradient(log_weight, z) / B
    expected = outer.gradient(z, vae.encoder.trainable_weights, towards_z)
    np.testing.assert_allclose(encoder, np.concatenate([np.ravel(g) for g in expected]), rtol=1e-4, atol=1e-6)


def test_dreg_has_the_gradient_of_iwae_in_expectation_and_less_variance():
    samples, n = {}, 400
    x = np.repeat(images(1), 8, axis=0)
    for objective in (objectives.IWAE(24), objectives.DReG(24)):
        vae = seeded_vae(objective)
        one = tf.function(lambda step, vae=vae: gradients(vae, step, x), autograph=False)
        draws = [one(tf.constant(step + n * objective.stop_posterior, tf.int64)) for step in range(n)]
        samples[type(objective).__name__] = [np.stack(part).astype("float64") for part in zip(*draws)]
    for iwae, dreg in zip(samples["IWAE"], samples["DReG"]):
        error = np.sqrt((iwae.var(0) + dreg.var(0)) / n)
        z = (iwae.mean(0) - dreg.mean(0))[error > 1e-9] / error[error > 1e-9]
        assert np.abs(z).max() < 5  # about 200 weights
        assert np.mean(z**2) < 3  # 1 for independent gradients, but they are correlated
    (iwae, _), (dreg, _) = samples["IWAE"], samples["DReG"]
    assert dreg.var(0).sum() < 0.5 * iwae.var(0).sum()


def test_piwae_has_the_decoder_gradient_of_iwae_and_the_encoder_gradient_of_miwae():
    encoder, decoder = gradients(objectives.PIWAE(K, num_groups=3))
    np.testing.assert_allclose(encoder, gradients(objectives.MIWAE(K, num_groups=3))[0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(decoder, gradients(objectives.IWAE(K))[1], rtol=1e-4, atol=1e-6)


def test_dreg_with_a_posterior_with_weights_is_refused():
    with pytest.raises(ValueError, match=r"posterior without its own weights.*InverseAutoregressive"):
        small_vae(objectives.DReG(2), posterior=posteriors.InverseAutoregressive(1, 4))


def test_total_correlation_with_dependent_latents_is_refused():
    with pytest.raises(ValueError, match=r"independent latents.*FullCovarianceNormal"):
        small_vae(objectives.TotalCorrelation(2.0, 10), posterior=posteriors.FullCovarianceNormal())


def test_mmd_with_a_prior_without_samples_in_training_is_refused():
    with pytest.raises(ValueError, match=r"draws from the prior in every training step.*prior=Mixture"):
        small_vae(objectives.MMD(1.0), prior=priors.Mixture(2))


# The controller.


def test_controller_equals_algorithm_1():
    objective = objectives.TargetRate(5.0, k_p=0.1, k_i=0.01, min_beta=0.2, max_beta=0.5)
    np.testing.assert_allclose(objective(RATE), [2.1, 4.3], rtol=1e-6)  # starts at the lower bound
    integral = 0.0
    for rate in (7.0, 9.0, 4.0, 1e6, 6.0, 3.0, -1e6, 5.0):
        objective.update({"rate": tf.constant(rate)}, 0)
        integral = np.clip(integral - 0.01 * (5.0 - rate), 0.0, 0.3)
        beta = 0.1 / (1 + np.exp(5.0 - rate)) if rate > -700 else 0.0
        assert float(objective.beta) == pytest.approx(np.clip(beta + integral + 0.2, 0.2, 0.5), rel=1e-5)


@pytest.mark.slow
def test_controller_holds_the_rate_at_its_target(digits):
    vae = kvae.VAE(
        latent_dim=4, image_shape=(8, 8, 1), objective=objectives.TargetRate(6.0, k_i=0.002, max_beta=10.0),
        encoder=networks.Encoder(4, networks.MLP((64,))), decoder=networks.Decoder((8, 8, 1), networks.MLP((64,))),
    )  # fmt: skip
    vae.compile(keras.optimizers.Adam(3e-3), steps_per_execution=7)
    rate = vae.fit(digits[0][:512], batch_size=64, epochs=40, verbose=0).history["rate"]
    assert max(rate) > 9  # with beta near 0
    assert np.mean(rate[-5:]) == pytest.approx(6.0, abs=0.5)
    assert 0.1 < float(vae.objective.beta) < 1


def test_controller_ignores_a_non_finite_batch():
    objective = objectives.TargetRate(5.0)
    objective.build()
    objective.update({"rate": tf.constant(np.nan, "float32")}, 0)
    objective.update({"rate": tf.constant(9.0)}, 0)
    assert np.isfinite(float(objective.beta))
    assert float(objective.beta) > 0


def test_dip_accepts_integers():
    vae = small_vae(objectives.DIP(5, 50))
    vae.compile(optimizer="adam")
    assert np.isfinite(vae.fit(images(), verbose=0).history["loss"][0])


@pytest.mark.slow
def test_controller_resumes_from_a_file(digits, tmp_path):
    """A resumed training run equals an uninterrupted one, bit for bit."""
    x = digits[0][:128, :4, :4]
    vae = small_vae(objectives.TargetRate(0.1, k_i=0.1))
    vae.compile(keras.optimizers.Adam(1e-3))
    vae.fit(x, epochs=2, batch_size=32, shuffle=False, verbose=0)
    vae.save(tmp_path / "vae.keras")
    again = kvae.load(tmp_path / "vae.keras")
    assert float(again.objective.integral) == float(vae.objective.integral) > 0
    for model in (vae, again):
        model.fit(x, batch_size=32, shuffle=False, verbose=0)
    assert float(again.objective.beta) > 0
    for a, b in zip(vae.weights, again.weights, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_controller_of_two_replicas_equals_that_of_one(digits, two_replicas):
    x = digits[0][:64, :4, :4]
    single = small_vae(objectives.TargetRate(0.1, k_p=0.5, k_i=0.1))
    with two_replicas.scope():
        mirrored = small_vae(objectives.TargetRate(0.1, k_p=0.5, k_i=0.1))
        mirrored.compile(keras.optimizers.SGD(1e-3))
    mirrored.set_weights(single.get_weights())
    single.compile(keras.optimizers.SGD(1e-3))
    data = tf.data.Dataset.from_tensor_slices(x).batch(32)
    for model in (single, mirrored):
        model.fit(data, verbose=0)
    for name in ("integral", "beta"):
        one, two = (keras.ops.convert_to_numpy(getattr(m.objective, name)) for m in (single, mirrored))
        assert two == pytest.approx(one, rel=1e-5)
        assert one > 0.01


# Tests of every objective.

EVERY = pytest.mark.parametrize("name", cases.OBJECTIVES)


def test_every_objective_has_a_case():
    abstract = {objectives.Objective}
    classes = {v for v in vars(objectives).values() if isinstance(v, type) and issubclass(v, objectives.Objective)}
    assert classes - abstract == {type(make()) for make in cases.OBJECTIVES.values()}


@EVERY
def test_gradients_are_finite_and_config_round_trip(name):
    objective = cases.OBJECTIVES[name]()
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(objective))
    assert again.get_config() == objective.get_config()
    for gradient, same in zip(gradients(objective), gradients(again)):
        assert np.all(np.isfinite(gradient))
        assert np.any(gradient != 0)
        np.testing.assert_array_equal(gradient, same)


@EVERY
@pytest.mark.parametrize("size", [1e3, 1e30])
def test_objective_is_finite_for_extreme_values(name, size):
    """Raw parameters of ±1e3, log-weights of ±1e30."""
    objective = cases.OBJECTIVES[name]()
    k = objective.num_samples
    rng = np.random.default_rng(0)
    params = tf.constant(rng.choice([-1e3, 0.0, 1e3], (B, 2 * D)), "float32")
    size = tf.constant(rng.choice([-size, size], (k, B)), "float32")
    posterior, prior = posteriors.DiagonalNormal(), priors.StandardNormal()
    posterior.build((None, 2 * D))
    prior.build((None, D))
    noise = distributions.Noise(0)
    with tf.GradientTape() as tape:
        tape.watch(params)
        z, log_q = posterior.sample_and_log_prob(params, k, noise)
        path = objectives.GradientScale()
        log_p = prior.log_prob(path(z))
        t = objectives.Terms(
            size, tf.reduce_mean(log_q - log_p, axis=0), log_p - size - log_q, z, posterior.mean(params), log_q,
            log_p, params, posterior, prior, noise, path=path,
        )  # fmt: skip
        loss = objective(t, 3)
    assert loss.shape == (B,)
    assert np.all(np.isfinite(loss))
    gradient = tape.gradient(loss, params)
    assert gradient is None or np.all(np.isfinite(gradient))


@pytest.mark.slow
def test_objective_trains_under_xla():
    """TargetRate has state, which is the hardest case for XLA. tests/test_parts.py has other parts."""
    vae = small_vae(cases.OBJECTIVES["TargetRate"]())
    before = vae.get_weights()
    vae.compile(keras.optimizers.Adam(1e-3), jit_compile=True)
    history = vae.fit(images(8), batch_size=8, verbose=0).history
    assert np.all(np.isfinite(history["loss"]))
    assert all(np.all(np.isfinite(w)) for w in vae.get_weights())
    assert np.any(vae.encoder.get_weights()[0] != before[1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["TotalCorrelation stratified", pytest.param("MMD InfoVAE", marks=pytest.mark.slow)])
def test_objective_trains_on_batches_of_unknown_size(name):
    vae = small_vae(cases.OBJECTIVES[name]())
    vae.compile(keras.optimizers.Adam(1e-3))
    history = vae.fit(tf.data.Dataset.from_tensor_slices(images(7)).batch(3), verbose=0).history  # 3, 3, 1
    assert np.all(np.isfinite(history["loss"]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["IWAE", "TotalCorrelation", "MMD WAE"])
def test_evaluation_reports_the_elbo_for_every_objective(name):
    scores = []
    for objective in (objectives.ELBO(num_samples=cases.OBJECTIVES[name]().num_samples), cases.OBJECTIVES[name]()):
        vae = seeded_vae(objective)
        vae.compile()
        scores.append(vae.evaluate(images(), verbose=0, return_dict=True))
    assert scores[0] == scores[1]
    assert scores[0]["loss"] == pytest.approx(-scores[0]["elbo"])


@pytest.mark.slow
def test_importance_weighted_training_reports_the_tighter_bound():
    vae, x = small_vae(objectives.IWAE(num_samples=50)), images(40)
    vae.compile(optimizer="adam")
    history = vae.fit(x, validation_data=(x,), verbose=0).history
    assert history["nll"][0] == pytest.approx(history["loss"][0], rel=1e-5)
    assert history["val_nll"][0] < history["val_loss"][0] == pytest.approx(-history["val_elbo"][0])
    assert "nll" not in small_vae().metrics_names


def test_config_from_before_objectives_were_layers_loads():
    config = {"num_samples": 3, "beta": keras.saving.serialize_keras_object(schedules.LinearWarmup(steps=4))}
    objective = keras.saving.deserialize_keras_object(
        {"module": "kvae.objectives.elbo", "class_name": "ELBO", "config": config, "registered_name": "kvae>ELBO"}
    )
    assert objective.num_samples == 3
    np.testing.assert_allclose(objective(RATE, 2), [2.25, 4.75])


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (schedules.LinearWarmup(steps=4, start=1.0, end=3.0), [1, 1.5, 2, 2.5, 3, 3]),
        (schedules.Cyclical(steps=4, cycles=1, ratio=0.5), [0, 0.5, 1, 1, 1, 1]),
        (schedules.Cyclical(steps=2, cycles=2, ratio=1.0, end=2.0), [0, 1, 0, 1, 2, 2]),
    ],
)
def test_schedules(schedule, values):
    assert [float(schedule_value(schedule, step)) for step in range(6)] == pytest.approx(values)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert [float(again(step)) for step in range(6)] == pytest.approx(values)


@pytest.mark.parametrize("beta", [2.0, schedules.LinearWarmup(steps=7, end=0.5), schedules.Cyclical(steps=3)])
def test_elbo_config_round_trip(beta):
    objective = objectives.ELBO(beta, num_samples=3)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(objective))
    assert again.num_samples == 3
    np.testing.assert_allclose(again(RATE, 2), objective(RATE, 2))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: objectives.ELBO(beta=-1.0), r"`beta` must be >= 0. Received: beta=-1.0"),
        (lambda: objectives.ELBO(beta=float("nan")), "beta=nan"),
        (lambda: objectives.ELBO(num_samples=0), "num_samples=0"),
        (lambda: objectives.FreeBits(-0.1), "min_rate=-0.1"),
        (lambda: objectives.Capacity(1.0, gamma=-2.0), "gamma=-2.0"),
        (lambda: objectives.MIWAE(num_samples=8, num_groups=3), "num_groups=3, num_samples=8"),
        (lambda: objectives.CIWAE(beta=1.5), "beta=1.5"),
        (lambda: objectives.TotalCorrelation(2.0, dataset_size=0), "dataset_size=0"),
        (lambda: objectives.MMD(weight=-1.0), "weight=-1.0"),
        (lambda: objectives.RBF(0.0), "scale=0.0"),
        (lambda: objectives.DIP(diagonal=-3.0), "diagonal=-3.0"),
        (lambda: objectives.TargetRate(5.0, k_i=-1.0), "k_i=-1.0"),
        (lambda: objectives.TargetRate(5.0, min_beta=2.0, max_beta=1.0), "min_beta=2.0, max_beta=1.0"),
        (lambda: schedules.LinearWarmup(steps=0), "steps=0"),
        (lambda: schedules.Cyclical(steps=5, cycles=0), "cycles=0"),
    ],
)
def test_invalid_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
