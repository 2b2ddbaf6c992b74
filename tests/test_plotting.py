"""Contents of figures: the pixels of the images, the quantiles of the prior, the points of the latents."""

from statistics import NormalDist

import numpy as np
import pytest
from PIL import Image

import kvae
from kvae import features, likelihoods, plotting


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
    ("value", "painted"), [(0.0, (1, 1, 1)), (1.0, (0, 0, 0)), (7.0, (0, 0, 0)), (np.nan, (1, 0, 1))]
)
def test_colours_of_grey_values(value, painted):
    images = np.zeros((1, 5, 5, 1))
    images[0, 2, 2] = value
    np.testing.assert_array_equal(shown(plotting.image_grid(images))[2, 2], painted)


@pytest.mark.parametrize(
    ("channels", "colours", "note"),
    [
        (1, [[0.75] * 3] * 4, ""),  # on a black ground, dark on light
        (2, [(1, 0, 0), (0, 1, 1), (0, 0, 0), (0, 0, 0)], "channel 0 red, 1 cyan"),
        (3, [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)], ""),
        (4, [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)], "channels 0, 1, 2 of 4 as red, green, blue"),
        (13, [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0)], "channels 0, 1, 2 of 13 as red, green, blue"),
    ],
)
def test_colours_of_channels_are_noted(channels, colours, note):
    """Image i has only channel i; grey images have a quarter of the brightness."""
    images = np.zeros((4, 8, 8, channels))
    for i in range(4):
        images[i, 2:6, 2:6, i % channels] = 0.25 if channels == 1 else float(i < channels)
    grid = shown(plotting.image_grid(images, columns=4))
    np.testing.assert_array_equal(grid[4, [4, 13, 22, 31]], colours)
    figures = [
        plotting.image_grid(images),
        plotting.neighbours(images, np.eye(4), k=2),
        plotting.thumbnail_map(images, np.eye(4), method="pca"),
    ]
    for figure in figures:
        assert "".join(text.get_text() for text in figure.texts) == note
        assert figure._repr_png_()[:4] == b"\x89PNG"


def test_every_image_pixel_is_a_whole_number_of_screen_pixels(tmp_path):
    images = np.random.default_rng(0).random((6, 7, 5, 3))
    grid = shown(plotting.image_grid(images, columns=3))
    with Image.open(plotting.save(plotting.image_grid(images, columns=3), tmp_path / "grid.png")) as picture:
        pixels = np.asarray(picture.convert("RGB")) / 255
    scale = pixels.shape[0] // grid.shape[0]
    assert pixels.shape[:2] == (scale * grid.shape[0], scale * grid.shape[1])
    expected = grid.repeat(scale, axis=0).repeat(scale, axis=1)
    np.testing.assert_allclose(pixels, expected, atol=1 / 255)  # a PNG has 256 levels


def test_a_failed_save_does_not_change_the_old_file(tmp_path, monkeypatch):
    figure = plotting.image_grid(np.zeros((1, 4, 4, 1)))
    path = plotting.save(figure, tmp_path / "grid.png")
    old = path.read_bytes()

    def half(file, **options):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", half)
    with pytest.raises(OSError, match="disk full"):
        plotting.save(figure, path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


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


def test_neighbours_are_the_nearest_other_images():
    images = np.linspace(0, 1, 5).reshape(5, 1, 1, 1) * np.ones((1, 8, 8, 1))
    latents = np.array([[0.0], [1.0], [1.1], [5.0], [5.5]])
    figure = plotting.neighbours(images, latents, queries=[0, 3], k=2)
    pixels = shown(figure)
    tiles = [[float(pixels[8 * r + r + 4, 9 * c + 4, 0]) for c in range(3)] for r in range(2)]
    np.testing.assert_allclose(tiles, [[0, 0.25, 0.5], [0.75, 1, 0.5]], atol=0.01)


def test_a_slider_shows_the_original_the_reconstruction_and_the_steps():
    model = vae(2)
    images = np.random.default_rng(0).random((2, 8, 8, 1)).astype("float32")
    along = features.Direction(np.array([1.0, 0.0], "float32"), 2.0)
    pixels = shown(plotting.direction_slider(model, images, along, steps=[0.0, 1.0]))
    np.testing.assert_allclose(pixels[:8, :8, 0], images[0, ..., 0], atol=1e-6)
    np.testing.assert_allclose(pixels[:8, 9:17, 0], np.asarray(model.reconstruct(images))[0, ..., 0], atol=1e-5)
    z = np.add(model.encode_mean(images), np.array([2.0, 0.0], "float32"))
    np.testing.assert_allclose(pixels[:8, 18:26, 0], np.asarray(model.decode(z))[0, ..., 0], atol=1e-5)


def test_arithmetic_shows_its_terms_and_the_result():
    model, x = vae(3), np.random.default_rng(0).random((6, 8, 8, 1)).astype("float32")
    a, b, c = x[:2], x[2:4], x[4:]
    pixels = shown(plotting.latent_arithmetic(model, a, b, c))
    z = np.asarray(model.encode_mean(a)) - np.asarray(model.encode_mean(b)) + np.asarray(model.encode_mean(c))
    expected = [*(np.stack([a, b, c])), np.asarray(model.decode(z))]
    for row in range(2):
        for column in range(4):
            tile = pixels[9 * row : 9 * row + 8, 9 * column : 9 * column + 8, 0]
            np.testing.assert_allclose(tile, expected[column][row, ..., 0], atol=1e-5)


@pytest.mark.parametrize(("count", "labelled"), [(3, True), (200, True), (200, False)])
def test_thumbnails_are_near_their_latents_and_do_not_overlap(count, labelled):
    rng = np.random.default_rng(0)
    latents = rng.normal(size=(count, 2)) * [3, 1]
    images = np.full((count, 8, 8, 3), np.arange(count).reshape(-1, 1, 1, 1) / 255)  # the colour identifies the image
    figure = plotting.thumbnail_map(
        images, latents, np.arange(count) % 3 if labelled else None, ("a", "b"), method="pca"
    )
    drawn = figure.axes[0].images
    centres = np.array([[np.mean(image.get_extent()[:2]), np.mean(image.get_extent()[2:])] for image in drawn])
    assert len(np.unique(centres.round(6), axis=0)) == len(centres) > min(count, 20) / 2
    which = [round(float(image.get_array()[0, 0, 0]) * 255) for image in drawn]
    points = features.latent_plane(latents, "pca")
    last = round(figure.axes[0].get_xlim()[1] - 0.6)  # cells are numbered from 0
    places = (points - points.min(axis=0)) / np.ptp(points, axis=0) * last
    assert np.abs(centres - places[which]).max() <= 0.5 + 1e-6  # in its own cell
    taken = {tuple(centre) for centre in centres.round().astype(int).tolist()}
    assert taken == {tuple(cell) for cell in places.round().astype(int).tolist()}  # no cell is left out
    texts = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    assert texts == (["a", "b", "2"] if labelled else [])


@pytest.mark.parametrize(("first", "framed"), [(900.0, True), (91.0, False)])
def test_a_first_epoch_far_above_the_others_is_outside_the_frame(first, framed):
    values = [first, *np.linspace(90.0, 80.0, 11)]
    low, high = plotting.learning_curves({"distortion": values}).axes[0].get_ylim()
    assert low < 80.0
    assert 90.0 < high
    assert (high < first) == framed


def test_traversals_change_one_latent_at_a_time():
    seen = []

    class Recorder:
        latent_dim = 3

        def decode(self, z):
            seen.append(np.asarray(z))
            return np.zeros((len(z), 4, 4, 1))

    latents = np.random.default_rng(0).normal([1.0, 2.0, 3.0], [0.5, 1.0, 2.0], (50, 3))
    plotting.traversals(Recorder(), dimensions=2, steps=3, kl=[0.1, 0.0, 5.0], latents=latents)
    z, mean, deviation = seen[0].reshape(2, 3, 3), latents.mean(axis=0), latents.std(axis=0)
    for row, moved in enumerate((2, 0)):  # the largest KL first
        held = [d for d in range(3) if d != moved]
        np.testing.assert_allclose(z[row][:, held], np.tile(mean[held], (3, 1)), rtol=1e-6)
        np.testing.assert_allclose(z[row][:, moved], mean[moved] + deviation[moved] * np.array([-3, 0, 3]), rtol=1e-5)


def test_maps_of_defects_have_one_scale_and_outlines(tmp_path):
    images = np.full((3, 8, 6, 1), 0.5)
    maps, masks = np.zeros((2, 3, 8, 6))
    maps[1, 2:4, 2:4], maps[2, 5, 5] = 10.0, 5.0
    masks[1, 2:4, 2:4] = masks[2, 7, 5] = 1
    figure = plotting.anomaly_maps(images, images, maps, masks, ["p 0.5", "p 0.01", "p 0.02"], gap=2)
    grid = shown(figure)
    assert grid.shape == (3 * 8 + 2 * 2, 3 * 6 + 2 * 2, 3)
    np.testing.assert_array_equal(
        grid[:18, [0, 8, 16]], np.where(np.arange(18) // 2 == 4, 1.0, 0.5)[:, None, None].repeat(3, 1).repeat(3, 2)
    )
    bright = grid[20:].sum(axis=-1)
    assert len(np.unique(bright[2:4, 10:12])) == 1
    assert bright[2, 10] > bright[5, 21] > bright[0, 0]  # the scale is common
    places = [path.vertices for artist in figure.axes[0].collections for path in artist.get_paths()]
    middles = sorted(np.round(place[:, :2].mean(axis=0)).astype(int).tolist() for place in places if len(place))
    assert middles == [[10, 22], [21, 27]]
    assert plotting.save(figure, tmp_path / "maps.png").stat().st_size < 50_000
    assert not plotting.anomaly_maps(images, images, maps).axes[0].collections


@pytest.mark.parametrize(
    "act",
    [
        lambda: plotting.anomaly_maps(np.zeros((2, 8, 8, 1)), np.zeros((2, 8, 8, 1)), np.zeros((2, 8, 8, 1))),
        lambda: plotting.anomaly_maps(np.zeros((2, 8, 8, 1)), np.zeros((2, 8, 8, 1)), np.zeros((2, 4, 4))),
        lambda: plotting.anomaly_maps(np.zeros((0, 8, 8, 1)), np.zeros((0, 8, 8, 1)), np.zeros((0, 8, 8))),
        lambda: plotting.image_grid(np.zeros((0, 8, 8, 1))),
        lambda: plotting.image_grid(np.zeros((8, 8))),
        lambda: plotting.learning_curves({"accuracy": [1.0]}),
        lambda: plotting.traversals(vae(), dimensions=[2]),
        lambda: plotting.kl_per_dimension(np.zeros((2, 2))),
        lambda: plotting.latent_arithmetic(vae(), *np.zeros((2, 1, 8, 8, 1)), np.zeros((2, 8, 8, 1))),
    ],
)
def test_invalid_arguments_are_refused(act):
    with pytest.raises(ValueError, match="Received"):
        act()
