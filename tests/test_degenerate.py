"""Codes that are constant, equal or few: every function of codes returns the correct value, or refuses them."""

import numpy as np
import pytest

import kvae
from kvae import evaluation, features, plotting
from kvae.evaluation.codes import as_codes, principal_components

pytestmark = pytest.mark.filterwarnings("error")

N, D = 24, 4
CONSTANT = np.tile(np.arange(D) / 7, (N, 1))
RNG = np.random.default_rng(0)
LABELS = np.arange(N) % 3 % 2  # 16 of class 0, 8 of class 1

#: codes, and the number of distinct codes
CODES = {
    "constant": (CONSTANT, 1),
    "float32": (CONSTANT.astype("float32"), 1),
    "zeros": (np.zeros((N, D)), 1),
    "whole numbers": (np.full((N, D), 3), 1),
    "rounding": (CONSTANT + 0.1 + 1e-9 * RNG.normal(size=(N, D)), 1),
    "one latent": (np.full((N, 1), 0.3), 1),
    "two values": (CONSTANT + np.arange(N)[:, None] % 2, 2),
    "one outlier": (CONSTANT + 5.0 * (np.arange(N) == 7)[:, None], 2),
    "three values": (RNG.normal(size=(3, D))[np.arange(N) % 3], 3),
    "one column varies": (np.column_stack([CONSTANT[:, 1:], np.arange(N)]), N),
    "noise around 0": (1e-8 * RNG.normal(size=(N, D)), N),
    "noise and an outlier": (CONSTANT + 1e-6 * RNG.normal(size=(N, D)) + 5.0 * (np.arange(N) == 7)[:, None], N),
    "huge": (1e30 * RNG.normal(size=(N, D)), N),
    "tiny": (1e-30 * RNG.normal(size=(N, D)), N),
    "many latents": (RNG.normal(size=(N, 100)), N),
    "booleans": (np.indices((2,) * D).reshape(D, -1).T[np.arange(N) % 16].astype(bool), 16),
}
NOT_FINITE = {"nan": np.nan, "inf": np.inf}


def images_of(codes) -> np.ndarray:
    return np.zeros((len(codes), 8, 8, 1))


class ZeroDecoder:
    """A minimal model for figures."""

    def __init__(self, codes):
        self.latent_dim = codes.shape[1]

    def decode(self, z):
        assert np.isfinite(z).all()
        return np.zeros((len(z), 8, 8, 1))


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_equal_codes_have_the_same_coordinates_on_a_plane(name, method):
    codes, distinct = CODES[name]
    plane = features.latent_plane(codes, method)
    assert plane.shape == (N, 2)
    assert np.isfinite(plane).all()
    assert len(np.unique(plane, axis=0)) == distinct or method == "pca"
    if distinct == 1:
        np.testing.assert_array_equal(plane, 0)


@pytest.mark.parametrize("rows", [3, 4, 5])
def test_a_plane_of_few_codes(rows):
    assert np.isfinite(features.latent_plane(RNG.normal(size=(rows, 2)))).all()
    np.testing.assert_array_equal(features.latent_plane(CONSTANT[:rows]), 0)


@pytest.mark.parametrize("name", ["constant", "one latent", "two values", "one outlier", "huge", "tiny"])
def test_figures_of_degenerate_codes(name, tmp_path):
    codes, distinct = CODES[name]
    images = images_of(codes)
    drawn = {
        "map": plotting.latent_map(codes, np.where(np.arange(N) % 5, LABELS, -1), ("a", "b")),
        "thumbnails": plotting.thumbnail_map(images, codes, LABELS, method="pca"),
        "neighbours": plotting.neighbours(images, codes, k=3),
        "traversals": plotting.traversals(ZeroDecoder(codes), dimensions=1, latents=codes),
    }
    for title, figure in drawn.items():
        assert plotting.save(figure, tmp_path / f"{title}.png").stat().st_size > 0
    assert len(drawn["thumbnails"].axes[0].images) == 1 or distinct > 1
    points = np.concatenate([group.get_offsets() for group in drawn["map"].axes[0].collections])
    assert len(points) == N
    assert np.isfinite(points).all()


@pytest.mark.parametrize("name", CODES)
def test_neighbours_of_equal_codes_have_distance_0(name):
    codes, distinct = CODES[name]
    for metric in ("euclidean", "cosine"):
        found = features.nearest(None, codes, codes[:5], k=4, metric=metric)
        assert np.isfinite(found.distances).all()
        assert distinct > 1 or name == "zeros" or found.distances == pytest.approx(0, abs=1e-6)
        assert all(len(set(row)) == 4 for row in found.indices.tolist())


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("method", ["mean", "logistic"])
def test_a_direction_requires_different_means(name, method):
    codes, distinct = CODES[name]
    groups = codes[:13], codes[13:]
    if distinct == 1:
        with pytest.raises(ValueError, match="same mean"):
            features.direction(None, *groups, method)
    else:
        found = features.direction(None, *groups, method)
        assert np.linalg.norm(found.vector) == pytest.approx(1)
        assert np.isfinite(found.distance)


@pytest.mark.parametrize("name", CODES)
def test_a_probe_of_constant_codes_has_the_accuracy_of_the_larger_class(name):
    codes, distinct = CODES[name]
    (row,) = evaluation.linear_probe({"z": codes}, LABELS, {"z": codes}, LABELS)
    assert row.accuracy == pytest.approx(2 / 3) if distinct == 1 else 0 <= row.accuracy <= 1


@pytest.mark.parametrize("name", CODES)
def test_disentanglement_uses_the_latents_that_vary(name):
    codes, distinct = CODES[name]
    factors = np.column_stack([np.arange(N) % 2, np.arange(N) % 3])
    for score in (evaluation.mig, evaluation.sap, evaluation.dci, evaluation.factor_vae_score):
        options = {"votes": 20} if score is evaluation.factor_vae_score else {}
        if distinct == 1:
            with pytest.raises(ValueError, match="all constant"):
                score(codes, factors, **options)
        else:
            values = np.atleast_1d(list(found.values()) if isinstance(found := score(codes, factors, **options), dict)
                                   else found)  # fmt: skip
            assert np.all((values >= 0) & (values <= 1 + 1e-9))


def test_scores_do_not_depend_on_the_scale_of_a_latent():
    factors = np.indices((4, 6)).reshape(2, -1).T
    codes = factors + 0.3 * RNG.normal(size=(N, 2))
    for score in (evaluation.mig, evaluation.sap, evaluation.factor_vae_score):
        assert score(codes * [1e-12, 1e9] + [1e-13, 0], factors) == pytest.approx(score(codes, factors))


@pytest.mark.parametrize("name", CODES)
def test_equal_codes_have_frechet_distance_0(name):
    codes, _ = CODES[name]
    scale = float(np.square(codes.astype("float64")).sum(axis=1).max())
    assert evaluation.frechet_distance(codes, codes) == pytest.approx(0, abs=1e-9 * max(scale, 1e-300))


def test_statistics_of_collapsed_latents():
    found = evaluation.latent_statistics(CONSTANT, np.ones((N, D)))
    np.testing.assert_allclose(found.kl, 0.5 * np.square(np.arange(D) / 7))
    assert not found.active.any()
    assert np.isinf(evaluation.latent_statistics(CONSTANT, np.zeros((N, D))).kl).all()  # a point has no density


REFUSE_NAN = {
    "plane": lambda codes: features.latent_plane(codes),
    "components": lambda codes: features.latent_plane(codes, "pca"),
    "nearest": lambda codes: features.nearest(None, codes, codes),
    "direction": lambda codes: features.direction(None, codes[:9], codes[9:]),
    "map": lambda codes: plotting.latent_map(codes),
    "two latents": lambda codes: plotting.latent_map(codes[:, 1:3]),
    "thumbnails": lambda codes: plotting.thumbnail_map(images_of(codes), codes),
    "neighbours": lambda codes: plotting.neighbours(images_of(codes), codes),
    "traversals": lambda codes: plotting.traversals(ZeroDecoder(codes), latents=codes),
    "probe": lambda codes: evaluation.linear_probe({"z": codes}, LABELS, {"z": codes}, LABELS),
    "mig": lambda codes: evaluation.mig(codes, LABELS[:, None]),
    "fréchet": lambda codes: evaluation.frechet_distance(codes, codes),
}


@pytest.mark.parametrize("name", REFUSE_NAN)
@pytest.mark.parametrize("value", NOT_FINITE)
def test_codes_that_are_not_finite_are_refused(name, value):
    codes = RNG.normal(size=(N, D))
    codes[5, 2] = NOT_FINITE[value]
    with pytest.raises(ValueError, match=r"finite .*Received: (1 of|NaN)"):
        REFUSE_NAN[name](codes)


@pytest.mark.parametrize("shape", [(0, 4), (5,), (5, 0), (2, 3, 4)])
def test_codes_have_two_axes(shape):
    with pytest.raises(ValueError, match=r"\(N, D\)"):
        as_codes(np.zeros(shape))


def test_principal_components_invert_a_rotation():
    angles = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
    scores = RNG.normal(size=(200, 3)) * [3, 2, 1]
    scores -= scores.mean(axis=0)
    points, shares = principal_components(scores @ angles + 5)
    np.testing.assert_allclose(np.abs(np.corrcoef(points.T, scores[:, :2].T)[:2, 2:]), np.eye(2), atol=0.25)
    eigenvalues = np.sort(np.linalg.eigvalsh(np.cov(scores.T)))[::-1]
    np.testing.assert_allclose(shares, eigenvalues[:2] / eigenvalues.sum())


@pytest.fixture(scope="module")
def collapsed():
    """A VAE whose posterior is the prior for every image."""
    vae = kvae.VAE(latent_dim=3, image_shape=(8, 8, 1))
    for weight in vae.encoder.weights:
        weight.assign(0 * weight)
    return vae


def test_a_collapsed_model_has_no_information_and_no_mismatch(collapsed, digits):
    parts = evaluation.aggregate_posterior(collapsed, digits[0][:200])
    assert parts["mutual_information"] == pytest.approx(0, abs=1e-5)
    assert evaluation.latents.mismatch(parts)[0] == ""
    assert abs(evaluation.latents.mismatch(parts)[1]) < 0.2


def test_equal_rows_have_no_outlier():
    rows = np.tile([1.0, -2.0, 0.5], (20, 1))
    detector = features.AnomalyDetector(latent_dim=2, units=(8,), epochs=1, num_samples=2, random_state=0)
    assert (detector.fit(rows).predict(rows) == 1).all()
    for scores in detector.score_by_criterion([*rows[:2], [9.0, 9.0, 9.0]]).values():
        assert np.isfinite(scores).all()
        assert scores[0] == scores[1]
