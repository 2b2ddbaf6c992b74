"""Every number in the configuration of a file is bounded by the weights that the file has."""

import copy
import functools
import inspect
import json
import math
import time
import tracemalloc

import keras
import numpy as np
import pytest
from keras import layers
from keras.src.backend.common import global_state
from test_parts import PARTS, vae_with
from tiers import slow_but

import kvae
from kvae import features, likelihoods, networks, objectives, posteriors, priors, recipes, schedules
from kvae.distributions.autoregressive import MaskedNetwork
from kvae.distributions.coupling import AffineCoupling
from kvae.features.outputs import HierarchyLatents
from kvae.models.loading import LARGE, _check_sizes
from kvae.networks import bottom_up, top_down

HUGE = (10**7, 10**12)
#: values that replace a number: refused, or harmless
OTHERS = (9_999, -1, 0, 1e7, math.nan, "10000000", [1] * 100, None)


def in_a_model(layer, *shapes):
    """Return a functional model with one layer."""
    inputs = [keras.Input(shape) for shape in shapes]
    return keras.Model(inputs, layer(*inputs))


def built(network, *shape):
    network.build((None, *shape))
    return network


def small(**parts):
    return kvae.VAE(networks.Encoder(3, networks.MLP((4,))), networks.Decoder((4, 4, 1), networks.MLP((4,))), **parts)


def hierarchy_latents():
    levels = [(2, 1, 1, 2)]
    encoder, decoder = networks.BottomUp((4, 4, 1), levels), networks.TopDown((4, 4, 1), levels)
    return in_a_model(HierarchyLatents(encoder, decoder, posteriors.TopDownNormal()), (4, 4, 1))


def table():
    columns = [
        {"name": "height", "type": "number", "decimals": 0}, {"name": "visits", "type": "count", "high": 60.0},
        {"name": "city", "type": "category", "categories": ["Oslo", "Paris"]}, {"name": "member", "type": "boolean"},
    ]  # fmt: skip
    parts = networks.Encoder(2, networks.MLP((4,))), networks.Decoder((4,), networks.MLP((4,)))
    return kvae.VAE(*parts, likelihood=likelihoods.Columns(columns, components=2))


def classifier():
    model = features.classifier(small(), 3, trunk_rate=features.GradualUnfreezing(10))
    rate = kvae.callbacks.LowerableRate(keras.optimizers.schedules.CosineDecay(1e-3, 100))
    model.compile(
        kvae.optimizers.FusedAdam(rate), "sparse_categorical_crossentropy", metrics=[kvae.models.ActiveUnits(3)]
    )
    return model


#: small models that contain every registered class between them
NETWORKS = {
    "MLP": lambda: built(networks.MLP((3, 2)), 4),
    "gated MLP": lambda: built(networks.MLP((3,), gated=True), 4),
    "ConvDown": lambda: built(networks.ConvDown((2, 2), units=3), 8, 8, 1),
    "ConvUp": lambda: built(networks.ConvUp((2, 2)), 4, 4, 2),
    "ResidualDown": lambda: built(networks.ResidualDown((2,), blocks=1, units=3), 8, 8, 1),
    "ResidualUp": lambda: built(networks.ResidualUp((2,), blocks=1), 4, 4, 2),
    "GatedDense": lambda: built(networks.GatedDense(3), 4),
    "ResidualBlock": lambda: built(networks.ResidualBlock(2), 4, 4, 2),
    "DepthToSpace": lambda: in_a_model(networks.DepthToSpace(), (4, 4, 4)),
    "AffineCoupling": lambda: in_a_model(AffineCoupling((3,)), (4,)),
    "MaskedNetwork": lambda: in_a_model(MaskedNetwork(3), (2,), (3,)),
    "BottomUp": lambda: built(networks.BottomUp((4, 4, 1), [(2, 1, 1, 2)]), 4, 4, 1),
    "TopDown": lambda: built(networks.TopDown((4, 4, 1), [(2, 1, 1, 2)]), 4),
    "Features": lambda: built(bottom_up.Features([(2, 1, 1, 2)], 1, "plain"), 4, 4, 1),
    "Enlarge": lambda: built(top_down.Enlarge(2, (4, 4)), 2, 2, 1),
    "StochasticLayer": lambda: built(top_down.StochasticLayer(1), 2, 2, 2),
    "LayerPosterior": lambda: in_a_model(bottom_up.LayerPosterior(1), (2, 2, 2), (2, 2, 2)),
    "Encoder": lambda: built(networks.Encoder(2, networks.MLP((3,))), 4, 4, 1),
    "Decoder": lambda: built(networks.Decoder((4, 4, 1), networks.MLP((3,))), 2),
}
MODELS = {
    "VAE": lambda: small(objective=objectives.ELBO(schedules.LinearWarmup(10))),
    "VampPrior": lambda: small(prior=priors.VampPrior(4), objective=objectives.ELBO(schedules.Cyclical(10))),
    "InfoVAE": lambda: small(objective=objectives.MMD(1.0, kernel=objectives.RBF())),
    "HierarchyLatents": lambda: hierarchy_latents(),
    "Autoencoder": lambda: kvae.Autoencoder(networks.Encoder(2, networks.MLP((4,))), image_shape=(4, 4, 1)),
    "SemiSupervisedVAE": lambda: kvae.SemiSupervisedVAE(latent_dim=2, image_shape=(4, 4, 1), num_classes=2),
    "Columns": table,
    "Classifier": classifier,
}


#: layers of a user's network
LAYERS = {
    "Dense": lambda: in_a_model(layers.Dense(3), (4,)),
    "Conv2D": lambda: in_a_model(layers.Conv2D(3, 3), (8, 8, 1)),
    "Conv2DTranspose": lambda: in_a_model(layers.Conv2DTranspose(3, 3, strides=2), (8, 8, 1)),
    "SeparableConv2D": lambda: in_a_model(layers.SeparableConv2D(3, 3, depth_multiplier=2), (8, 8, 2)),
    "Conv3D": lambda: in_a_model(layers.Conv3D(3, 3), (8, 8, 8, 1)),
    "RepeatVector": lambda: in_a_model(layers.RepeatVector(3), (4,)),
    "UpSampling2D": lambda: in_a_model(layers.UpSampling2D(2), (8, 8, 1)),
    "ZeroPadding2D": lambda: in_a_model(layers.ZeroPadding2D(2), (8, 8, 1)),
    "MaxPooling2D": lambda: in_a_model(layers.MaxPooling2D(2), (8, 8, 1)),
    "Reshape": lambda: in_a_model(layers.Reshape((2, 4)), (8,)),
    "Resizing": lambda: in_a_model(layers.Resizing(4, 4), (8, 8, 1)),
    "Embedding": lambda: in_a_model(layers.Embedding(5, 3), (8,)),
    "CategoryEncoding": lambda: in_a_model(layers.CategoryEncoding(4), (8,)),
    "Hashing": lambda: in_a_model(layers.Hashing(4), (8,)),
    "GroupNormalization": lambda: in_a_model(layers.GroupNormalization(2), (8, 8, 4)),
    "MultiHeadAttention": lambda: in_a_model(layers.MultiHeadAttention(2, 3), (4, 5), (4, 5)),
    "LSTM": lambda: in_a_model(layers.LSTM(3, unroll=True), (4, 2)),
    "cells": lambda: in_a_model(layers.RNN([layers.GRUCell(2), layers.GRUCell(3)]), (8, 2)),
    "Dropout": lambda: in_a_model(layers.Dropout(0.1, noise_shape=(1, 8, 4)), (8, 4)),
    "SpectralNormalization": lambda: in_a_model(layers.SpectralNormalization(layers.Dense(3)), (4,)),
    "STFTSpectrogram": lambda: in_a_model(layers.STFTSpectrogram(frame_length=64, frame_step=32), (800, 1)),
    "RandAugment": lambda: in_a_model(layers.RandAugment(num_ops=2), (8, 8, 3)),
}  # fmt: skip


def part(name):
    return getattr(vae_with(name), PARTS[name][0])


ALL = NETWORKS | MODELS | LAYERS | {name: functools.partial(part, name) for name in PARTS}


def record(thing):
    """Return the configuration, as in a file, and the sizes of its arrays."""
    return json.loads(json.dumps(keras.saving.serialize_keras_object(thing))), [
        math.prod(w.shape) for w in thing.weights
    ]


@functools.cache
def recorded(name):
    return record(ALL[name]())


def classes_in(config):
    if isinstance(config, dict):
        if "class_name" in config:
            yield config.get("registered_name")
        for value in config.values():
            yield from classes_in(value)
    elif isinstance(config, list):
        for value in config:
            yield from classes_in(value)


def integers_in(config, path=()):
    """Yield the paths to all integers."""
    for key, value in config.items() if isinstance(config, dict) else enumerate(config):
        if isinstance(value, dict | list):
            yield from integers_in(value, (*path, key))
        elif isinstance(value, int) and not isinstance(value, bool):
            yield (*path, key)


def changed(config, path, value):
    config = copy.deepcopy(config)
    place = config
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return config


def is_large(path):
    return next(key for key in reversed(path) if isinstance(key, str)) in LARGE


def outcome(config, sizes):
    """Return the error, or None. An AssertionError is raised if the check takes much time or memory."""
    tracemalloc.start()
    started, error = time.process_time(), None
    try:
        _check_sizes(copy.deepcopy(config), sizes)  # Keras modifies it
    except Exception as found:  # `kvae.load` converts every kind of error
        error = found
    seconds, (_, memory) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 5, error  # most of this is the tracing of memory
    assert memory < 30e6, error
    return error


@pytest.mark.slow
def test_every_registered_class_is_covered():
    names = {name for made in ALL for name in classes_in(recorded(made)[0])}
    assert {key for key in keras.saving.get_custom_objects() if key.startswith("kvae>")} <= names


@pytest.mark.parametrize("name", ALL)
def test_huge_integers_are_refused(name):
    config, sizes = recorded(name)
    assert outcome(config, sizes) is None
    paths = [path for path in integers_in(config) if not is_large(path)]
    assert paths
    for path in paths:
        for value in HUGE:
            assert isinstance(outcome(changed(config, path, value), sizes), ValueError), (path, value)


@pytest.mark.parametrize("name", slow_but(PARTS, [name for name in ALL if name not in MODELS]))
def test_other_values_are_refused_or_harmless(name):
    config, sizes = recorded(name)
    for path in integers_in(config):
        for value in (*HUGE, *OTHERS) if is_large(path) else OTHERS:
            outcome(changed(config, path, value), sizes)


def serialized(thing):
    return json.loads(json.dumps(keras.saving.serialize_keras_object(thing)))


def with_body(body):
    return lambda config: changed(config, ("config", "encoder", "config", "body"), serialized(body))


def with_prior(prior, **others):
    return lambda config: changed(config, ("config", "prior"), serialized(prior) | others)


def with_image_shape(*shape):
    return lambda config: changed(config, ("config", "decoder", "config", "event_shape"), list(shape))


def with_metrics(*metrics):
    return lambda config: changed(config, ("compile_config",), {"metrics": [serialized(metric) for metric in metrics]})


def of_layers(*made):
    return lambda config: serialized(keras.Sequential([keras.Input((8, 8, 1)), *made]))


#: numbers that are small individually
BOMBS = {
    "a product": with_body(networks.MLP((9_000, 9_000))),
    "many layers": with_body(networks.MLP((1,) * 9_000)),
    "many numbers": with_body(networks.MLP((1,) * 20_000)),
    "many blocks": with_body(networks.ResidualDown((2,), blocks=9_999, units=3)),
    "many couplings": with_prior(priors.RealNVP(num_layers=9_999, units=(2,))),
    "large matrices": with_prior(priors.FixedMixture(2, full=True), build_config={"input_shape": [None, 9_999]}),
    "a large image": with_image_shape(9_999, 9_999, 1),
    "text for a number": with_image_shape("9999999", 4, 1),
    "a large activation": of_layers(layers.UpSampling2D(9_000)),
    "stacked activations": of_layers(*[layers.UpSampling2D(80) for _ in range(3)]),
    "padding": of_layers(layers.ZeroPadding2D(9_000)),
    "a large metric": with_metrics(keras.metrics.MeanIoU(9_999)),
    "far more objects than weights": with_metrics(*[keras.losses.MeanSquaredError() for _ in range(2_000)]),
    "deep": lambda config: functools.reduce(lambda inner, _: {"config": inner}, range(10_000), config),
}


@pytest.mark.parametrize("name", BOMBS)
def test_small_numbers_with_a_large_product_are_refused(name):
    config, sizes = recorded("VAE")
    assert outcome(BOMBS[name](config), sizes) is not None


def test_a_refused_model_leaves_no_state():
    """Keras would initialise its weights when it builds the next model."""
    config, sizes = recorded("VAE")
    with pytest.raises(ValueError, match="declares more weights than it has"):
        _check_sizes(BOMBS["a product"](config), sizes)
    assert not global_state.get_global_attribute("uninitialized_variables")
    started = len(keras.tree.flatten(small().weights))
    assert started == len(sizes)


def compiled(model, *args, **kwargs):
    model.compile(*args, **kwargs)
    return model


def rate(schedule, *args, **kwargs):
    return kvae.optimizers.FusedAdam(getattr(keras.optimizers.schedules, schedule)(*args, **kwargs))


def user_encoder(*made):
    encoder = keras.Sequential([keras.Input((4, 4, 1)), *made, layers.Flatten(), layers.Dense(6)])
    return kvae.VAE(encoder, networks.Decoder((4, 4, 1), networks.MLP((4,))), latent_dim=3)


#: small models with numbers above 10,000, or with many numbers
LEGITIMATE = {
    "seeds": lambda: small(seed=2**40, prior=priors.Mixture(3, seed=2**62)),
    "examples": lambda: small(objective=objectives.TotalCorrelation(6.0, dataset_size=10**9)),
    "levels of 16 bits": lambda: small(likelihood=likelihoods.DiscretizedLogistic(2**16)),
    "warm-up": lambda: small(objective=objectives.Capacity(schedules.LinearWarmup(10**8, end=10**6), gamma=10**6)),
    "weights": lambda: small(objective=objectives.MMD(10**6, kernel=objectives.IMQ(10**5))),
    "samples": lambda: small(objective=objectives.IWAE(5_000)),
    "cosine": lambda: compiled(small(), rate("CosineDecay", 1e-3, 10**8, warmup_steps=10**6)),
    "restarts": lambda: compiled(small(), rate("CosineDecayRestarts", 1e-3, 10**6)),
    "boundaries": lambda: compiled(small(), rate("PiecewiseConstantDecay", [10**5, 10**6], [1.0, 0.1, 0.01])),
    "averages": lambda: compiled(small(), kvae.optimizers.FusedAdam(use_ema=True, ema_overwrite_frequency=10**5)),
    "loss scale": lambda: compiled(
        small(), keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(), dynamic_growth_steps=10**5)
    ),
    "steps per execution": lambda: compiled(small(), "adam", steps_per_execution=1_000),
    "images": lambda: kvae.VAE(
        networks.Encoder(2, networks.ConvDown((2, 2, 2, 2, 2), units=4)),
        networks.Decoder((512, 512, 3), networks.ConvUp((2, 2, 2, 2, 2))),
    ),
    "classes": lambda: compiled(
        features.classifier(small(), 20_000, class_names=range(20_000)), "adam", "sparse_categorical_crossentropy",
        metrics=["accuracy", keras.metrics.TopKCategoricalAccuracy(5), keras.metrics.AUC(num_thresholds=1_000)],
    ),
    "layers": lambda: kvae.VAE(
        networks.Encoder(2, networks.MLP((4,) * 10)), networks.Decoder((4, 4, 1), networks.MLP((4,) * 10))
    ),
    "layers without weights": lambda: user_encoder(*[layers.Dropout(0.1) for _ in range(20)], layers.Rescaling(255)),
    "normalisation": lambda: user_encoder(layers.BatchNormalization(), layers.Normalization(mean=0.5, variance=1.0)),
    "a spectrogram": lambda: keras.Sequential([keras.Input((4_096,)), layers.MelSpectrogram(), layers.Flatten()]),
}  # fmt: skip


@pytest.mark.parametrize("name", LEGITIMATE)
def test_legitimate_models_are_accepted(name):
    assert outcome(*record(LEGITIMATE[name]())) is None


@pytest.mark.slow
@pytest.mark.parametrize("name", recipes.__all__)
def test_recipes_are_accepted(name):
    wanted = inspect.signature(getattr(recipes, name)).parameters
    images = {"images": np.zeros((16, 28, 28, 1), "float32")} if "images" in wanted else {}
    config, sizes = record(getattr(recipes, name)((28, 28, 1), **images))
    _check_sizes(config, sizes)
