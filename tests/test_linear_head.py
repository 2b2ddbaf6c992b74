"""scikit-learn's linear classifiers as the dense head of an encoder: equal predictions."""

import keras
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier, SGDClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import SVC, LinearSVC

import kvae
from kvae.features.classifiers import classifier
from kvae.features.linear import from_linear
from kvae.features.transformer import VAETransformer

NAMES = np.array(["nought", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])


# Equal predictions require no convergence.
pytestmark = pytest.mark.filterwarnings("ignore:.*(converge|No latent is active)")


@pytest.fixture(scope="module")
def vae(digits):
    """An untrained VAE: its random projection separates digits, too. Its means are scaled to the usual size."""
    keras.utils.set_random_seed(0)
    mlp = kvae.networks.MLP
    vae = kvae.VAE(kvae.Encoder(6, mlp((32,))), kvae.Decoder((8, 8, 1), mlp((8,))))
    head = vae.encoder.head
    head.kernel.assign(head.kernel / np.std(vae.encode_mean(digits[0])))
    return vae


@pytest.fixture(scope="module")
def means(vae, digits):
    return np.asarray(vae.encode_mean(digits[0]))


ESTIMATORS = {
    "logistic": LogisticRegression(),
    "support vectors": LinearSVC(),
    "ridge": RidgeClassifier(),
    "gradient descent": SGDClassifier(random_state=0),
    "without intercept": RidgeClassifier(fit_intercept=False),
    "scaled": make_pipeline(StandardScaler(), LogisticRegression()),
    "scaled twice": make_pipeline(StandardScaler(with_std=False), StandardScaler(with_mean=False), LinearSVC()),
}
GIVES_PROBABILITIES = {"logistic", "scaled"}


@pytest.mark.parametrize("classes", [10, 2])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_predictions_equal_those_of_the_estimator(name, classes, vae, means, digits):
    x, y = digits[0], digits[1]
    chosen = y[:1200] < classes
    estimator = ESTIMATORS[name].fit(means[:1200][chosen], NAMES[y[:1200][chosen]])
    net = from_linear(vae, estimator)
    got = np.asarray(net(x[1200:]))
    assert got.shape == (597, classes)
    assert net.class_names == tuple(estimator.classes_)
    wanted = estimator.decision_function(means[1200:])
    logits = wanted if classes > 2 else np.stack([0 * wanted, wanted], axis=1)
    clear = np.diff(np.sort(logits, axis=1)[:, -2:])[:, 0] > 1e-4  # float32 may decide other cases differently
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(estimator.classes_[got.argmax(1)][clear], estimator.predict(means[1200:])[clear])
    if name in GIVES_PROBABILITIES:
        np.testing.assert_allclose(got, estimator.predict_proba(means[1200:]), atol=1e-5)
    else:
        softmax = np.exp(logits - logits.max(1, keepdims=True))
        np.testing.assert_allclose(got, softmax / softmax.sum(1, keepdims=True), atol=1e-4)


@pytest.mark.parametrize(
    "output", ["moments", *(pytest.param(name, marks=pytest.mark.slow) for name in ("hidden", "layers"))]
)
def test_other_features(output, vae, digits):
    x, y = digits[0][:300], digits[1][:300]
    features = VAETransformer(features=output, model=vae, epochs=0, mask_inactive=False).fit_transform(x)
    estimator = make_pipeline(StandardScaler(), LogisticRegression()).fit(features, y)
    net = from_linear(vae, estimator, output=output)
    np.testing.assert_allclose(net(x), estimator.predict_proba(features), atol=1e-4)
    with pytest.raises(
        ValueError, match=r"fitted on the 6 features of output='mean'. Received: an estimator fitted on"
    ):
        from_linear(vae, estimator)


def test_masked_features_have_zero_weights(vae, means, digits):
    mask = np.array([True, False, True, True, False, True])
    few = LogisticRegression().fit(means[:, mask], digits[1])
    zeroed = make_pipeline(StandardScaler(), LogisticRegression()).fit(means * mask, digits[1])
    for estimator, features in ((few, means[:, mask]), (zeroed, means * mask)):
        net = from_linear(vae, estimator, mask=mask)
        assert (net.head.get_weights()[0][~mask] == 0).all()
        np.testing.assert_allclose(net(digits[0]), estimator.predict_proba(features), atol=1e-4)


@pytest.mark.parametrize("features", ["mean", "moments"])
def test_a_pipeline_with_a_transformer(features, vae, digits):
    x, y = digits[0][:400], digits[1][:400]
    transformer = VAETransformer(features=features, model=vae, epochs=0)
    pipeline = make_pipeline(transformer, StandardScaler(), LogisticRegression()).fit(x, y)
    transformer.active_ = np.array([True, True, False, True, True, True])  # as if one were inactive
    pipeline[1:].fit(transformer.transform(x), y)
    net = from_linear(None, pipeline)
    np.testing.assert_allclose(net.predict(x, verbose=0), pipeline.predict_proba(x), atol=1e-4)
    assert net.class_names == tuple(map(str, range(10)))
    if features == "moments":
        assert np.flatnonzero((net.head.get_weights()[0] == 0).all(axis=1)).tolist() == [2, 8]
    with pytest.raises(ValueError, match="Expected None for `model`"):
        from_linear(vae, pipeline)


def test_rows_of_a_table(tmp_path):
    """A classifier of an unbounded model accepts any finite values, and loads from its file."""
    rng = np.random.default_rng(0)
    x = np.float32(10) * rng.normal(size=(200, 5)).astype("float32")
    y = (x[:, 0] > 0).astype(int)
    pipeline = make_pipeline(VAETransformer(2, epochs=1, random_state=0), LogisticRegression()).fit(x, y)
    net = from_linear(None, pipeline)
    assert net.bounded is False
    images = x.reshape(-1, 1, 5, 1)
    np.testing.assert_allclose(net.predict(images, verbose=0), pipeline.predict_proba(x), atol=1e-4)
    net.save(tmp_path / "net.keras")
    loaded = keras.models.load_model(tmp_path / "net.keras")
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), net.predict(images, verbose=0))
    assert (loaded.bounded, loaded.class_names) == (False, ("0", "1"))


@pytest.mark.slow
def test_the_head_can_be_trained_further(vae, means, digits):
    net = from_linear(vae, LogisticRegression().fit(means[:1200], digits[1][:1200]))
    net.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    x, y = digits[0][:600], digits[1][:600]
    before = net.evaluate(x, y, verbose=0)[0]
    net.fit(x, y, verbose=0)
    assert net.evaluate(x, y, verbose=0)[0] < before


REFUSED = {
    "neighbours": (KNeighborsClassifier(), "must be a linear classifier.*Received: KNeighborsClassifier"),
    "a regression": (Ridge(), "Received: Ridge"),
    "pairs of classes": (SVC(kernel="linear"), "Received: SVC"),
    "a kernel": (SVC(), "Received: SVC"),
    "one against the rest": (OneVsRestClassifier(LinearSVC()), "Received: OneVsRestClassifier"),
    "another step": (
        make_pipeline(MinMaxScaler(), LinearSVC()),
        "Expected a pipeline of.*StandardScaler.*Received: MinMaxScaler",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_nonlinear_estimators_are_refused(case, vae, means, digits):
    estimator, message = REFUSED[case]
    chosen = digits[1][:600] < 3  # three classes also have three pairs
    estimator.fit(means[:600][chosen], digits[1][:600][chosen])
    with pytest.raises(ValueError, match=message) as caught:
        from_linear(vae, estimator)
    assert "\n" not in str(caught.value)


def test_several_labels_per_row_are_refused(vae, means, digits):
    several = RidgeClassifier().fit(means, np.stack([digits[1] > 4, digits[1] % 2, digits[1] < 3], axis=1))
    with pytest.raises(ValueError, match="one class for each row"):
        from_linear(vae, several)


def test_invalid_arguments_are_refused(vae, means, digits):
    estimator = LogisticRegression().fit(means[:300], digits[1][:300])
    with pytest.raises(ValueError, match="Received: model=None"):
        from_linear(None, estimator)
    for mask in (np.ones(5, bool), np.ones(6)):
        with pytest.raises(ValueError, match=r"`mask` must be 6 booleans"):
            from_linear(vae, estimator, mask=mask)
    with pytest.raises(ValueError, match=r"`class_names` must be 3 different names. Received: a, b, a"):
        classifier(vae, 3, class_names=["a", "b", "a"])
