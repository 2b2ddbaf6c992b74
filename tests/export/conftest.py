"""Fixtures: small models of every kind, and a shared export."""

import keras
import numpy as np
import pytest
from keras import layers
from program import bare_root, state
from sensors import LOCATION, SCALE, SENSORS, STEPS, Schema, windows

import kvae
import kvae.export
from kvae import features, likelihoods, networks
from kvae.export import export, info


def user_encoder(size: int) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, strides=2),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(size),
        ]
    )


def user_decoder(*bodies: keras.layers.Layer) -> keras.Model:
    """Return a decoder from 3 latents to 8×8×1: a 4×4×4 grid, the given layers, and a convolution."""
    last = layers.Conv2D(1, 3, padding="same")
    return keras.Sequential([keras.Input((3,)), layers.Dense(64), layers.Reshape((4, 4, 4)), *bodies, last])


def hierarchy(image_shape: tuple[int, int, int], **parts) -> kvae.VAE:
    """Return a hierarchy with weights that have moved: equal kernels of zeros would share a buffer in a file."""
    levels = [(4, 2, 2, 8), (1, 1, 1, 8)]
    encoder, decoder = networks.BottomUp(image_shape, levels), networks.TopDown(image_shape, levels)
    vae = kvae.VAE(encoder, decoder, posterior=kvae.posteriors.TopDownNormal(), **parts)
    rng = np.random.default_rng(0)
    for weight in (*encoder.weights, *decoder.weights):
        weight.assign_add(0.05 * rng.standard_normal(weight.shape).astype("float32"))
    return vae


@pytest.fixture(name="hierarchy")
def make_hierarchy():
    return hierarchy


def mixed_precision() -> kvae.VAE:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return kvae.VAE(latent_dim=4, image_shape=(8, 8, 1))
    finally:
        keras.config.set_dtype_policy(before)


MODELS = {
    "Autoencoder": lambda: kvae.Autoencoder(latent_dim=2, image_shape=(8, 8, 1)),
    "DiagonalNormal, odd sizes": lambda: kvae.VAE(
        kvae.Encoder(5, body=networks.ConvDown((8, 16), units=16)),
        kvae.Decoder((13, 17, 3), body=networks.ConvUp((16, 8))),
        likelihood=kvae.likelihoods.DiagonalNormal(),
        latent_dim=5,
        image_shape=(13, 17, 3),
    ),
    "Sequential encoder and decoder": lambda: kvae.VAE(
        user_encoder(6),
        user_decoder(layers.UpSampling2D(2, interpolation="bilinear")),
        latent_dim=3,
        image_shape=(8, 8, 1),
    ),
    "hierarchy, odd sizes": lambda: hierarchy((9, 13, 3)),
    "mixed_float16": mixed_precision,
}


def small_vae(**parts) -> kvae.VAE:
    """Return a small VAE for tests that don't depend on the network; its export takes a third of the time."""
    encoder, decoder = kvae.Encoder(2, networks.MLP((16,))), kvae.Decoder((8, 8, 1), networks.MLP((16,)))
    return kvae.VAE(encoder, decoder, **parts)


def trained_vae() -> kvae.VAE:
    keras.utils.set_random_seed(0)
    vae = kvae.VAE(latent_dim=2, image_shape=(8, 8, 1))
    vae.compile(optimizer="adam")
    vae.fit(np.random.default_rng(0).random((128, 8, 8, 1)), epochs=2, verbose=0)
    return vae


@pytest.fixture(scope="session")
def vae():
    return trained_vae()


@pytest.fixture(scope="session")
def make_small():
    return small_vae


@pytest.fixture(scope="session")
def small():
    keras.utils.set_random_seed(0)
    return small_vae()


@pytest.fixture(scope="session")
def images():
    return np.random.default_rng(1).random((40, 8, 8, 1), dtype=np.float32)


@pytest.fixture(scope="session")
def directions():
    """Two directions that aren't perpendicular."""
    vector = np.random.default_rng(0).normal(size=2)
    vector = (vector / np.linalg.norm(vector)).astype("float32")
    smile = features.AttributeDirection(vector, 1.7, "a smile", 0.3, -1.5, 1.25, 0.956, 2 / 3, 0.97, 0.8)
    return [smile, smile._replace(name="<b>", vector=np.float32([1, 0]), distance=0.5, middle=-0.2)]


@pytest.fixture(scope="session")
def exported(vae, images, directions, tmp_path_factory):
    """Folder of an export of `vae` with directions; read-only."""
    out = tmp_path_factory.mktemp("export") / "vae"
    with bare_root():
        before = state()
        kvae.export.export(vae, out, (images, np.arange(len(images)) % 2), directions=directions)
        assert state() == before
    return out


NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture(scope="session")
def conditional(digits, tmp_path_factory):
    """A conditional VAE of digits with non-default parts, its images and labels, and the folder of its export."""
    keras.utils.set_random_seed(0)
    vae = kvae.VAE(
        kvae.Encoder(2, networks.MLP((64,))),
        kvae.Decoder((8, 8, 1), networks.MLP((64,))),
        posterior=kvae.posteriors.FullCovarianceNormal(),
        likelihood=kvae.likelihoods.DiscretizedLogistic(levels=17),
        prior=kvae.priors.ConditionalNormal(),
        condition_dim=10,
    )
    vae.compile(keras.optimizers.Adam(3e-3), steps_per_execution=20)
    vae.fit(*digits, batch_size=64, epochs=10, verbose=0)
    x, y = digits[0][:60], digits[1][:60]
    out = tmp_path_factory.mktemp("conditional") / "out"
    kvae.export.export(vae, out, (x, y), validation=(x[:40], y[:40]), batch_sizes=(1, 16), condition_names=NAMES)
    return vae, x, y, out


# Slow models (15 s each) with the same parts in another order.
SLOW = {"Sequential encoder and decoder", "mixed_float16"}


@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else []) for name in MODELS], scope="session"
)
def any_model(request):
    keras.utils.set_random_seed(1)
    return MODELS[request.param]()


@pytest.fixture
def mixed_vae():
    return mixed_precision()


@pytest.fixture(scope="session")
def make_decoder():
    return user_decoder


@pytest.fixture(scope="session")
def digits_vae():
    """A VAE trained on digits for a few seconds, and its data."""
    keras.utils.set_random_seed(0)
    data = kvae.data.load("digits", batch_size=64)
    encoder, decoder = kvae.Encoder(8, networks.MLP((64,))), kvae.Decoder(data.image_shape, networks.MLP((64,)))
    vae = kvae.VAE(encoder, decoder)
    vae.compile(optimizer=keras.optimizers.Adam(3e-3), steps_per_execution=20)
    vae.fit(data.train, epochs=15, verbose=0)
    return vae, data


@pytest.fixture(scope="session")
def series_vae():
    """Trained VAE of windows of three sensors in their own units."""
    vae = kvae.VAE(
        latent_dim=2,
        event_shape=(STEPS, 3),
        likelihood=likelihoods.Scaled(location=LOCATION, scale=SCALE, names=SENSORS),
        bounded=False,
    )
    vae.compile("adam")
    vae.fit(windows(200, seed=0), epochs=3, batch_size=20, verbose=0)
    return vae


@pytest.fixture(scope="session")
def series_folder(series_vae, tmp_path_factory):
    """Folder of its export, with calibration scores and the time between two samples."""
    folder = tmp_path_factory.mktemp("series")
    facts = info.describe
    with pytest.MonkeyPatch.context() as patch:  # `export` takes the schema from a `Data`
        patch.setattr(info, "describe", lambda *args, **options: facts(*args, **options | {"schema": Schema.to_json()}))
        report = export(
            series_vae, folder, windows(30, seed=1), validation=windows(199, seed=2), precisions=("float32", "int8"),
            batch_sizes=(1, 16),
        )  # fmt: skip
    assert not report["refused"]
    return folder
