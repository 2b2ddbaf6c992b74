"""The promised false-alarm rate of `AnomalyDetector(alpha=…)`, compared with the exact distribution in SciPy."""

import pickle

import numpy as np
import pytest
from scipy import stats

import kvae
from kvae import likelihoods, networks
from kvae.features.anomaly import CRITERIA, AnomalyDetector

ROW = (1, 4, 1)
FRESH = 2000
#: Quantiles of a test that fails for correct code in 1 of 10,000 cases.
NEVER = (5e-5, 1 - 5e-5)


@pytest.fixture(autouse=True)
def large_batches(monkeypatch):
    """Score many rows at once: models of this size take most of their time per call."""
    monkeypatch.setattr("kvae.features.estimator.SCORED", 500)


@pytest.fixture(scope="module")
def model() -> kvae.VAE:
    """An untrained model: the promise holds for any model."""
    return kvae.VAE(
        networks.Encoder(2, networks.MLP((8,))),
        networks.Decoder(ROW, networks.MLP((8,))),
        likelihood=likelihoods.Normal(learned=True),
        bounded=False,
    )


def detector(model, **settings) -> AnomalyDetector:
    return AnomalyDetector(2, model=model, epochs=0, num_samples=1, **{"random_state": 0, "alpha": 0.1, **settings})


def rows(seed: int, count: int, scale: float = 1.0) -> np.ndarray:
    return scale * np.random.default_rng(seed).standard_t(5, size=(count, 4))


def limits(n: int, alpha: float, fresh: int) -> tuple[float, float]:
    """Quantiles of the number of false alarms among fresh rows, for continuous scores: beta-binomial."""
    k = int(alpha * (n + 1) + 1e-9)
    return tuple(stats.betabinom(fresh, k, n + 1 - k).ppf(NEVER))


@pytest.mark.parametrize("seed", range(2))
def test_p_values_of_ordinary_rows_are_uniform(model, seed):
    found = detector(model, random_state=seed).fit(rows(seed, 1000))
    (known,) = found.calibration_scores_.values()
    p = found.p_values(rows(100 + seed, FRESH))
    assert len(known) == 200
    assert p.min() >= 1 / 201
    for alpha in (0.01, 0.05, 0.1, 0.5):
        low, high = limits(200, alpha, FRESH)
        assert low <= np.sum(p <= alpha) <= high, alpha
    np.testing.assert_array_equal(found.predict(rows(100 + seed, FRESH)), np.where(p <= 0.1, -1, 1))
    assert found.p_values(rows(0, 50, scale=1000)).min() == 1 / 201  # alarms are possible


@pytest.mark.parametrize(
    "criterion",
    [
        pytest.param(name, marks=[] if name in ("elbo", "typicality") else pytest.mark.slow)
        for name in sorted(set(CRITERIA) - {"complexity"})
    ],
)
def test_p_values_equal_their_definition(model, criterion):
    """With every criterion; the model and the median see no calibration row."""
    x, new = rows(0, 300), rows(1, 50, scale=1.5)
    found = detector(model, criterion=criterion, alpha=0.29, calibration_fraction=0.33).fit(x)
    held = found.calibration_rows_[None]
    assert len(held) == 99  # 0.29 * 100 is below 29 in floating point
    known, scores = -found.score_samples(x[held]), -found.score_samples(new)
    np.testing.assert_array_equal(found.calibration_scores_[None], np.sort(known))
    expected = (1 + np.sum(known[:, None] >= scores, axis=0)) / 100
    np.testing.assert_array_equal(found.p_values(new), expected)
    others = -found.score_by_criterion(np.delete(x, held, axis=0))["likelihood"]
    assert found.typical_ == np.median(others)
    for given in (new, x[held]):  # equal scores, too
        decision = found.decision_function(given)
        np.testing.assert_array_equal(found.predict(given) == -1, found.p_values(given) <= 0.29)
        np.testing.assert_array_equal(decision, found.score_samples(given) - found.offset_)
        np.testing.assert_array_equal(found.predict(given) == -1, decision < 0)
    assert np.sum(found.p_values(x[held]) <= 0.29) == 28  # a calibration row also counts itself
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(found)).p_values(new), expected)


def test_equal_scores_give_fewer_alarms(model):
    """Rows of three kinds: an alarm would hit all rows of a kind."""
    kinds = rows(0, 3)
    x, new = (
        kinds[np.random.default_rng(seed).choice(3, count, p=[0.6, 0.25, 0.15])]
        for seed, count in ((0, 500), (1, FRESH))
    )
    found = detector(model, alpha=0.2).fit(x)
    p = found.p_values(new)
    assert len(np.unique(p)) == 3
    for alpha in np.unique(p)[:-1]:
        assert np.sum(p <= alpha) <= limits(100, alpha, FRESH)[1]
    rarest = found.calibration_scores_[None].max()  # an equal score isn't higher
    assert p[-found.score_samples(new) == rarest].min() == (1 + np.sum(found.calibration_scores_[None] == rarest)) / 101


def test_the_promise_holds_for_a_rare_class(model):
    """The rows of the rare class are spread three times as far; one threshold for all is that of the common class."""
    x = np.concatenate([rows(0, 4000), rows(1, 400, scale=3)])
    y = np.repeat(["common", "rare"], [4000, 400])
    new, alarms, alpha = rows(2, FRESH, scale=3), {}, 0.05
    for by_class in (False, True):
        found = detector(model, alpha=alpha, by_class=by_class).fit(x, y)
        alarms[by_class] = np.sum(found.predict(new) == -1)
    low, high = limits(80, alpha, FRESH)
    assert alarms[False] > high
    assert low <= alarms[True] <= high
    assert {label: len(known) for label, known in found.calibration_scores_.items()} == {"common": 800, "rare": 80}
    assert {*y[found.calibration_rows_["rare"]]} == {"rare"}
    scores = -found.score_samples(new)
    by_hand = [
        (1 + np.sum(known >= scores[:, None], axis=1)) / (len(known) + 1)
        for known in found.calibration_scores_.values()
    ]
    np.testing.assert_array_equal(found.p_values(new), np.max(by_hand, axis=0))
    assert np.sum(found.predict(rows(3, FRESH)) == -1) <= limits(800, alpha, FRESH)[1]
    common, rare = (found.false_alarm_interval(label=label) for label in ("common", "rare"))
    assert common == pytest.approx(stats.beta(40, 761).ppf([0.025, 0.975]))
    assert rare == pytest.approx(stats.beta(4, 77).ppf([0.025, 0.975]))
    with pytest.raises(ValueError, match=r"`label` must be one of 'common', 'rare'\. Received: label=None"):
        found.false_alarm_interval()


def test_calibration_rows_are_not_trained_on(model):
    x = rows(0, 60)
    seen = []

    class Spy(AnomalyDetector):
        def _train(self, images):
            seen.append(images)

    found = Spy(2, model=model, num_samples=1, alpha=0.1, calibration_fraction=0.5, random_state=0).fit(x)
    held = found.calibration_rows_[None]
    np.testing.assert_allclose(np.sort(seen[0].ravel()), np.sort(np.delete(x, held, axis=0).ravel()), rtol=1e-6)
    other = Spy(2, model=model, num_samples=1, alpha=0.1, calibration_fraction=0.5, random_state=1).fit(x)
    assert {*held} != {*other.calibration_rows_[None]}


WRONG = {
    "alpha of 0": ({"alpha": 0}, "`alpha` must be between 0 and 1, or None. Received: alpha=0"),
    "alpha of 1": ({"alpha": 1.0}, "`alpha` must be between"),
    "no calibration": ({"calibration_fraction": 0.0}, "`calibration_fraction` must be between 0 and 1"),
    "classes without alpha": ({"alpha": None, "by_class": True}, "`by_class` requires `alpha`"),
    "no classes": ({"by_class": True}, "`y` must be the class of each row, for `by_class`. Received: y=None"),
    "too few rows": (
        {"alpha": 0.01},
        r"at least 99 calibration rows, because .*Received: 100 rows, 20 of them for calibration; pass 495 rows, or",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_invalid_settings_are_refused(model, case):
    settings, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        detector(model, **settings).fit(rows(0, 100))


def test_too_few_rows_of_a_class_are_refused(model):
    y = np.repeat([0, 7], [80, 20])
    with pytest.raises(ValueError, match=r"at least 9 calibration rows of class 7, .*pass 45 rows of class 7"):
        detector(model, by_class=True).fit(rows(0, 100), y)
    with pytest.raises(ValueError, match="3 classes, 100 rows"):
        detector(model, by_class=True).fit(rows(0, 100), y[:3])
    least = {"alpha": 0.01, "calibration_fraction": 0.2}
    assert len(detector(model, **least).fit(rows(0, 495)).calibration_scores_[None]) == 99  # as the message says


def test_a_threshold_by_contamination_has_no_p_values(model):
    found = detector(model, alpha=None).fit(rows(0, 40), np.zeros(40))
    for call in (lambda: found.p_values(rows(0, 1)), found.false_alarm_interval):
        with pytest.raises(ValueError, match=r"fitted with `alpha`\. Received: a threshold by `contamination`"):
            call()
