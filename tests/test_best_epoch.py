"""The kept epoch of a training run, and its reason, for artificial histories without training."""

import math
import re
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import kvae
from kvae import objectives
from kvae.callbacks import BestEpoch, Resume
from kvae.features import VAETransformer
from kvae.schedules import Cyclical, LinearWarmup

#: validation values of five epochs of ten steps each: distortion, rate, nll
HISTORY = [(95.0, 3.0, 97.0), (80.0, 30.0, 90.0), (81.5, 16.0, 91.0), (84.0, 14.5, 92.0), (83.0, 25.0, 93.0)]


class Own(objectives.Objective):
    """An objective of a user, without a criterion."""


class Judged(Own):
    """An objective of a user, with a criterion."""

    def criterion(self):
        return objectives.Criterion("rate", lambda values: values["rate"])


#: objective, kept epoch, part of the reason; derived by hand
CASES = {
    "ELBO": (objectives.ELBO(), 3, "the lowest validation −ELBO, 97.50 nats"),
    "ELBO of several samples": (objectives.ELBO(num_samples=5), 3, "−ELBO"),
    "β = 4": (objectives.ELBO(4.0), 1, "distortion + 4 · rate, 107.00 nats"),
    "β = 0": (objectives.ELBO(0.0), 2, "distortion + 0 · rate"),
    "warm-up": (objectives.ELBO(LinearWarmup(15)), 3, "−ELBO, 97.50 nats from step 15 on"),
    "warm-up to 4": (objectives.ELBO(LinearWarmup(35, end=4.0)), 4, "142.00 nats from step 35 on"),
    "warm-up that doesn't end": (objectives.ELBO(LinearWarmup(100)), 5, "end at step 100, and training took 50"),
    "schedule of a user": (objectives.ELBO(lambda step: 1.0), 5, "doesn't define the step at which it ends"),
    "cyclical": (objectives.ELBO(Cyclical(20, cycles=2)), 3, "from step 30 on"),
    "cyclical, rising to the end": (objectives.ELBO(Cyclical(20, cycles=2, ratio=1.0)), 4, "from step 40 on"),
    "capacity": (objectives.Capacity(25.0, gamma=10.0), 5, "distortion + 10 · |rate − 25|, 83.00 nats"),
    "capacity that grows": (objectives.Capacity(LinearWarmup(15, end=30.0)), 2, "from step 15 on"),
    "capacity whose γ grows": (objectives.Capacity(15.0, gamma=LinearWarmup(35, end=10.0)), 4, "89.00"),
    "target": (objectives.TargetRate(15.0), 3, "the lowest validation distortion, 81.50 nats (only epochs with a rate"),
    "target that falls": (objectives.TargetRate(LinearWarmup(35, 50.0, end=15.0)), 4, "distortion, 84.00"),
    "target that isn't reached": (objectives.TargetRate(50.0), 5, "the last one, because no epoch counted"),
    "IWAE": (objectives.IWAE(5), 2, "NLL (bound of 5 samples), 90.00 nats"),
    "IWAE of one sample": (objectives.IWAE(1), 3, "−ELBO"),
    "DReG": (objectives.DReG(5), 2, "NLL"),
    "MIWAE": (objectives.MIWAE(4, 2), 2, "NLL"),
    "MIWAE of single samples": (objectives.MIWAE(4, 4), 3, "−ELBO"),
    "PIWAE": (objectives.PIWAE(4, 2), 2, "NLL"),
    "CIWAE": (objectives.CIWAE(5, 0.5), 3, "0.5 · (−ELBO) + 0.5 · NLL"),
    "CIWAE without ELBO": (objectives.CIWAE(5, 0.0), 2, "NLL"),
    "CIWAE of one sample": (objectives.CIWAE(1, 0.5), 3, "−ELBO"),
    "free bits": (objectives.FreeBits(0.1), 5, "the last one, because the rate of each latent"),
    "DIP": (objectives.DIP(), 5, "the last one, because the covariance"),
    "MMD": (objectives.MMD(100.0), 5, "the last one, because the MMD"),
    "total correlation": (objectives.TotalCorrelation(6.0, 100), 5, "the last one, because the total correlation"),
    "of a user": (Own(), 5, "the last one, because Own names no validation value"),
    "of a user, with a criterion": (Judged(), 1, "the lowest validation rate, 3.00 nats"),
}


def judged(objective, history, patience=None):
    """Return the `BestEpoch` after this history. It stops where training would; `kept` are the epochs that it saved."""
    if not objective.built:
        objective.build()
    kept = []
    best = BestEpoch("unused.keras", patience)
    best.keep = lambda: kept.append(epoch + 1)
    model = SimpleNamespace(criterion=objective.criterion, step=keras.Variable(0, dtype="int64"), stop_training=False)
    best.set_model(model)
    best.on_train_begin()
    for epoch, (distortion, rate, nll) in enumerate(history):
        model.step.assign(10 * (epoch + 1))
        loss = distortion + rate
        values = {"loss": loss, "elbo": -loss, "distortion": distortion, "rate": rate, "nll": nll}
        best.on_epoch_end(epoch, {"loss": 1.0, **{f"val_{name}": value for name, value in values.items()}})
        if model.stop_training:
            break
    assert best.epoch == kept[-1]
    return best, epoch + 1


@pytest.mark.parametrize("case", CASES)
def test_the_kept_epoch(case):
    objective, epoch, reason = CASES[case]
    best, _ = judged(objective, HISTORY)
    assert best.epoch == epoch
    assert reason in best.because


def test_every_objective_is_in_the_table():
    known = {type(objective) for objective, *_ in CASES.values()}
    assert known >= {
        value
        for value in vars(objectives).values()
        if isinstance(value, type) and issubclass(value, objectives.Objective)
    } - {objectives.Objective}


@pytest.mark.parametrize("objective", [objectives.ELBO(), objectives.MMD(1.0), objectives.TargetRate(50.0)])
def test_an_epoch_with_infinite_values_is_not_kept(objective):
    assert judged(objective, [*HISTORY[:3], (math.nan, math.nan, math.nan)])[0].epoch == 3


#: objective, patience, the epoch after which training stops
PATIENCE = {
    "the lowest is the third": (objectives.ELBO(), 1, 2),  # the second was worse than the first
    "two worse ones": (objectives.ELBO(), 2, 5),
    "never": (objectives.ELBO(), 3, 5),
    "another value, another end": (objectives.IWAE(5), 2, 4),
    "warm-up doesn't count": (objectives.ELBO(LinearWarmup(25, end=4.0)), 1, 5),
    "epochs far from the target don't count": (objectives.TargetRate(15.0), 1, 4),
}


@pytest.mark.parametrize("case", PATIENCE)
def test_patience_uses_the_same_value(case):
    objective, patience, stopped = PATIENCE[case]
    assert judged(objective, HISTORY, patience)[1] == stopped


@pytest.mark.parametrize("objective", [objectives.MMD(1.0), objectives.FreeBits(), Own()])
def test_patience_requires_a_validation_value(objective):
    with pytest.raises(ValueError, match=r"keeps the last epoch, because .*\. Received: patience=3; leave"):
        judged(objective, HISTORY, patience=3)


#: objective, β if it is set, and the message about the last epoch, whose rate is 25
MISSED = {
    "near": (objectives.TargetRate(24.0), None, None),
    "β between its bounds": (objectives.TargetRate(10.0), 0.5, "25.0 nats in validation, and the target is 10.*`k_i`"),
    "β at its highest": (objectives.TargetRate(10.0, max_beta=2.0), 2.0, "upper bound, 2; raise `max_beta`"),
    "β at its lowest": (objectives.TargetRate(60.0), 0.0, "lower bound, 0; train for more epochs"),
    "capacity": (objectives.Capacity(60.0), None, "the capacity is 60.*`gamma`"),
    "capacity that is reached": (objectives.Capacity(26.0), None, None),
    "target of a schedule without an end": (objectives.TargetRate(lambda step: 1.0), None, None),
}


@pytest.mark.parametrize("case", MISSED)
def test_a_missed_rate_is_reported(case):
    objective, beta, message = MISSED[case]
    objective.build()
    if beta is not None:
        objective.beta.assign(beta)
    best, _ = judged(objective, HISTORY[-1:])
    if message is None:
        assert best.missed is None
    else:
        assert re.search(message, best.missed)


def test_replicas_keep_the_same_epoch(two_replicas):
    with two_replicas.scope():  # the step and β are variables with a copy in each replica
        best, _ = judged(objectives.TargetRate(60.0), HISTORY)
    assert (best.epoch, "lower bound" in best.missed) == (5, True)


def test_models_without_objectives():
    autoencoder = kvae.Autoencoder(latent_dim=2, image_shape=(8, 8, 1))
    assert autoencoder.criterion().judge({"distortion": 3.0, "loss": 3.0}, step=1) == 3.0
    m2 = kvae.SemiSupervisedVAE(latent_dim=2, image_shape=(8, 8, 1), num_classes=2)
    assert m2.criterion().value is None


def test_the_best_epoch_is_resumed(tmp_path, digits):
    """The file has the best epoch of all, not only of those after resuming."""
    x = digits[0][:32]

    def train(epochs, others):
        network = kvae.networks.MLP((4,))
        vae = kvae.VAE(kvae.Encoder(2, network), kvae.Decoder((8, 8, 1), kvae.networks.MLP((4,))))
        vae.compile("adam", run_eagerly=True)
        best = BestEpoch(tmp_path / "best.keras")
        resume = Resume(tmp_path / "state.npz", [best])
        callbacks = [best, *others(best), resume]
        vae.fit(x, validation_data=(x,), epochs=epochs, initial_epoch=resume.epoch, callbacks=callbacks,
                shuffle=False, verbose=0)  # fmt: skip
        return best

    unbeatable = keras.callbacks.LambdaCallback
    first = train(1, lambda best: [unbeatable(on_epoch_end=lambda *_: setattr(best, "best", 1.0))])
    saved = (tmp_path / "best.keras").read_bytes()
    second = train(3, lambda best: [])
    assert (second.epoch, second.best, second.because, second.worse) == (1, 1.0, first.because, 2)
    assert first.because.startswith("the lowest validation −ELBO")
    assert (tmp_path / "best.keras").read_bytes() == saved


def test_without_validation_data():
    for objective in (objectives.ELBO(), objectives.FreeBits()):
        best = BestEpoch("unused.keras")
        best.keep = lambda: None
        best.set_model(SimpleNamespace(criterion=objective.criterion, step=keras.Variable(10, dtype="int64")))
        if objective.criterion().value is None:
            best.on_epoch_end(0, {"loss": 1.0})
            assert best.epoch == 1
            best.on_epoch_end(1, {"loss": math.nan})
            assert best.epoch == 1
        else:
            with pytest.raises(ValueError, match=r"Expected validation_data in `fit`: .* lowest validation −ELBO"):
                best.on_epoch_end(0, {"loss": 1.0})


def test_estimators_refuse_patience_in_the_same_way():
    x = np.random.default_rng(0).random((40, 64)).astype("float32")
    settings = {"image_shape": (8, 8, 1), "epochs": 1, "patience": 2, "random_state": 0}
    with pytest.raises(ValueError, match="leave `patience` out"):
        VAETransformer(2, model="wae_mmd", **settings).fit(x)


def test_recipes_of_estimators_get_the_size_of_the_training_run():
    estimator = VAETransformer(2, model="beta_tc_vae", image_shape=(8, 8, 1), epochs=3, batch_size=16, patience=1)
    estimator.row_shape_, estimator.seed_ = (64,), 0
    assert estimator._make(np.zeros((40, 64), "float32")).objective.dataset_size == 36  # without the validation images
    warmup = estimator.set_params(model="warmup_vae", epochs=50)._make(np.zeros((40, 64), "float32")).objective.beta
    assert warmup.steps == 50 * 3 // 5
