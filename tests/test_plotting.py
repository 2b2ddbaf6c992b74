"""Figures show what they say: the pixels of the images, the quantiles of the prior, the points of the latents."""

from statistics import NormalDist

import numpy as np
import pytest

import kvae
from kvae import likelihoods, plotting


def vae(latent_dim=2, shape=(8, 8, 1), likelihood=None):
    return kvae.VAE(latent_dim=latent_dim, image_shape=shape, likelihood=likelihood)


def shown(figure):
    return np.asarray(figure.axes[0].images[0].get_array())


def test_image_grid_shows_the_pixels(tmp_path):
    images = np.random.default_rng(0).random((5, 6, 4, 3))
    grid = shown(plotting.image_grid(images, columns=3))
    rows, columns = grid.shape[0] // 2, grid.shape[1] // 3
    for i in range(5):
        top, left = (i // 3) * (rows + 1), (i % 3) * (columns + 1)
        np.testing.assert_allclose(grid[top : top + 6, left : left + 4], images[i], atol=1 / 255)
    path = plotting.save(plotting.image_grid(images), tmp_path / "deep" / "grid.png")
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert [p.name for p in path.parent.iterdir()] == ["grid.png"]


@pytest.mark.parametrize(
    "model",
    [
        vae(),
        vae(3, (9, 7, 3), likelihoods.Normal(learned=True)),
        vae(4, (8, 8, 1), likelihoods.DiagonalNormal()),
        kvae.Autoencoder(latent_dim=2, image_shape=(8, 8, 1)),
    ],
    ids=["bernoulli", "normal colour", "normal pixel", "autoencoder"],
)
def test_every_model_can_be_drawn(model):
    images = np.random.default_rng(0).random((5, *model.image_shape)).astype("float32")
    latents = np.random.default_rng(1).normal(size=(5, model.latent_dim))
    for figure in (
        plotting.reconstructions(model, images),
        plotting.traversals(model, images[0], dimensions=2, steps=5, latents=latents),
        plotting.interpolations(model, images[:2], images[2:4]),
    ):
        assert np.all(np.isfinite(shown(figure)))
        assert figure._repr_png_()[:4] == b"\x89PNG"
    if isinstance(model, kvae.VAE):
        assert shown(plotting.samples(model, n=9, seed=1)).size
    else:
        with pytest.raises(TypeError, match="can't generate"):
            plotting.samples(model)


def test_manifold_decodes_the_quantiles_of_the_prior():
    seen = []

    class Recorder:
        latent_dim, prior = 2, object()

        def decode(self, z):
            seen.append(np.asarray(z))
            return np.zeros((len(z), 4, 4, 1))

    plotting.manifold(Recorder(), steps=5)
    quantiles = [NormalDist().inv_cdf((i + 0.5) / 5) for i in range(5)]
    np.testing.assert_allclose(seen[0][:5, 0], quantiles, rtol=1e-6)
    np.testing.assert_allclose(seen[0][:5, 1], quantiles[-1], rtol=1e-6)
    with pytest.raises(ValueError, match="latent_dim=3"):
        plotting.manifold(vae(3))


@pytest.mark.parametrize("size", [1, 2, 6])
@pytest.mark.parametrize("labelled", [True, False])
def test_latent_map(size, labelled):
    rng = np.random.default_rng(0)
    means, labels = rng.normal(size=(60, size)), rng.integers(0, 3, 60) if labelled else None
    axes = plotting.latent_map(means, labels, ("a", "b", "c")).axes[0]
    points = sum(len(group.get_offsets()) for group in axes.collections)
    assert points == 60
    assert len(axes.collections) == (3 if labelled else 1)


def test_learning_curves_and_kl():
    history = {"distortion": [3.0, 2.0], "val_distortion": [3.5, 2.5], "rate": [0.0, 1.0], "elbo": [-3.0, -3.0]}
    figure = plotting.learning_curves(history)
    assert len(figure.axes) == 3
    assert [len(axes.lines) for axes in figure.axes] == [2, 1, 1]
    np.testing.assert_array_equal(figure.axes[0].lines[1].get_ydata(), [3.5, 2.5])
    bars = plotting.kl_per_dimension([0.1, 3.0, 0.0]).axes[0].patches
    assert [bar.get_height() for bar in bars] == [3.0, 0.1, 0.0]


@pytest.mark.parametrize(
    "act",
    [
        lambda: plotting.image_grid(np.zeros((0, 8, 8, 1))),
        lambda: plotting.image_grid(np.zeros((8, 8))),
        lambda: plotting.learning_curves({"accuracy": [1.0]}),
        lambda: plotting.traversals(vae(), dimensions=[2]),
        lambda: plotting.kl_per_dimension(np.zeros((2, 2))),
    ],
)
def test_mistakes_are_named(act):
    with pytest.raises(ValueError, match="Received"):
        act()
