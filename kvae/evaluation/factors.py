"""Disentanglement: whether each factor of variation has a latent of its own.

Every score is a function of codes `(N, D)` and factors `(N, F)` of the same N images; 1 is best. Codes are posterior
means, as in Locatello et al. 2019 (https://arxiv.org/abs/1811.12359). No score changes when latents are permuted or
scaled. Constant latents are left out. Factors are integers; each factor of a float array is continuous and divided into
10 bins of equal width over its range, because the scores count values.

`kvae.data.shapes` and `kvae.data.faces` render images whose factors are known:

    >>> import kvae
    >>> data = kvae.data.shapes(1000, seed=1)
    >>> vae = kvae.VAE(latent_dim=4, image_shape=data.images.shape[1:])  # untrained, it separates little
    >>> codes = kvae.features.extract(vae, data.images, hidden=False)["mean"]
    >>> mig(codes, data.factors) < 0.1, sap(codes, data.factors, data.categorical) < 0.3
    (True, True)

`disentanglement(vae, data.images, data.factors, data.categorical)` returns all scores of a trained model.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kvae.evaluation.codes import as_codes
from kvae.evaluation.scoring import as_batches
from kvae.models.metrics import ACTIVE_VARIANCE

FACTOR_BINS = 10  # bins of equal width over a continuous factor's range
BINS = 20  # bins of equal width over a latent's range, for mutual information (Locatello et al. 2019, appendix C)
TREES, LEAF = 50, 0.01  # number of trees of a random forest, smallest share of the examples in a leaf


def disentanglement(
    model: Any, images: Any, factors: Any, categorical: Sequence[int] = (), seed: int = 0
) -> dict[str, Any]:
    """Return all scores of a model, from its active latents.

    A latent whose posterior mean hardly varies (variance at most 0.01, Burda et al. 2016) is left out, because the
    scores scale each latent and would measure variation that the decoder doesn't use.

    Args:
        model: a `kvae.VAE` or `kvae.Autoencoder`.
        images: `(N, H, W, C)`.
        factors: integers `(N, F)`, or floats, which are divided into bins.
        categorical: numbers of the factors whose values have no order.
        seed: seed of the forests and the votes.

    Returns:
        Dict with `mig`, `sap`, `dci_disentanglement`, `dci_completeness`, `dci_informativeness`, `factor_vae`,
        `active_units` and `examples`.

    Raises:
        ValueError: if no latent is active, or for the reasons of the single scores.

    Example:

        >>> import keras, kvae
        >>> model = kvae.Autoencoder(keras.layers.Flatten(), latent_dim=2, image_shape=(1, 2, 1))
        >>> factors = np.indices((2, 2)).reshape(2, -1).T
        >>> scores = disentanglement(model, factors.reshape(-1, 1, 2, 1).astype("float32"), factors)
        >>> round(scores["mig"], 6), round(scores["sap"], 6), scores["active_units"]
        (1.0, 1.0, 2)
    """
    codes = as_codes(np.concatenate([np.asarray(model.encode_mean(batch)) for batch in as_batches(images)]), "codes")
    active = codes.var(axis=0) > ACTIVE_VARIANCE
    if not active.any():
        raise ValueError(f"Expected a model with active latents. Received: 0 of {codes.shape[1]} active (collapse)")
    codes = codes[:, active]
    return {
        "mig": mig(codes, factors),
        "sap": sap(codes, factors, categorical),
        **{f"dci_{name}": value for name, value in dci(codes, factors, seed).items()},
        "factor_vae": factor_vae_score(codes, factors, seed=seed),
        "active_units": int(active.sum()),
        "examples": len(codes),
    }


def mig(codes: Any, factors: Any) -> float:
    """Return the mutual information gap (MIG).

    It is 1/F Σ_k (I(z_a; v_k) − I(z_b; v_k)) / H(v_k), where a and b are the two best latents for v_k (Chen et al.
    2018, https://arxiv.org/abs/1802.04942, eq. 6). There z is drawn from q(z|x); here it is the mean, divided into 20
    bins of equal width over its range, and I is the mutual information of the table of counts.

    Args:
        codes: `(N, D)`.
        factors: integers `(N, F)`, or floats, which are divided into bins.

    Raises:
        ValueError: if an array has another shape, a factor has only one value, or all latents are constant.

    Example:

        >>> factors = np.indices((4, 5)).reshape(2, -1).T
        >>> round(mig(factors, factors), 6), round(mig(factors @ [[1, 1], [1, -1]], factors), 6)
        (1.0, 0.0)
    """
    from sklearn.metrics import mutual_info_score

    codes, factors = _check(codes, factors)
    bins = _bins(codes, BINS)
    information = np.array([[mutual_info_score(v, z) for v in factors.T] for z in bins.T])  # (D, F)
    entropy = np.array([mutual_info_score(v, v) for v in factors.T])  # (F,)
    return float(np.mean(_gap(information) / entropy))


def sap(codes: Any, factors: Any, categorical: Sequence[int] = ()) -> float:
    """Return the separated attribute predictability (SAP).

    It is 1/F Σ_k (S_ak − S_bk), where S_ik measures how well latent i alone predicts factor k, and a and b are the two
    best latents for k (Kumar et al. 2018, https://arxiv.org/abs/1711.00848, §3). For an ordered factor, S is the
    squared correlation. For a categorical factor with C values, S is the balanced accuracy of the best C − 1 thresholds
    that a tree finds. A latent without information has an accuracy of 1/C, not 0, so that the best possible gap is
    1 − 1/C.

    Args:
        codes: `(N, D)`.
        factors: integers `(N, F)`, or floats, which are divided into bins.
        categorical: numbers of the factors whose values have no order.

    Raises:
        ValueError: as for `mig`.

    Example:

        >>> factors = np.indices((3, 5)).reshape(2, -1).T
        >>> round(sap(factors, factors), 6), round(sap(factors, factors, categorical=[0]), 6)  # (1 + 2/3) / 2
        (1.0, 0.833333)
    """
    codes, factors = _check(codes, factors)
    z, v = ((x - x.mean(axis=0)) / x.std(axis=0) for x in (codes, factors))
    score = np.square(z.T @ v / len(z))  # (D, F)
    for k in categorical:
        score[:, k] = [_threshold_accuracy(z_i, factors[:, k]) for z_i in codes.T]
    return float(np.mean(_gap(score)))


def dci(codes: Any, factors: Any, seed: int = 0) -> dict[str, float]:
    """Return disentanglement, completeness and informativeness (Eastwood & Williams 2018, §2).

    A random forest predicts each factor from all latents; R_ik is the importance of latent i for factor k.

    * disentanglement: Σ_i ρ_i (1 − H_F(R_i· / Σ_k R_ik)), where ρ_i is the share of latent i in all importance. It is 1
      if each latent predicts only one factor;
    * completeness: the mean over k of 1 − H_D(R_·k / Σ_i R_ik). It is 1 if each factor is in only one latent;
    * informativeness: the forests' accuracy on a held-out fifth of the examples, mean over k. (In the paper it is
      an error.) A forest that guesses has 1 / (number of values).

    Entropies have base F and D. Every split of a tree considers all latents, and a leaf has at least 1% of the
    examples. With splits over random subsets, or with small leaves that fit noise, latents without information would
    get a share of the importance even for a good code.

    Args:
        codes: `(N, D)`.
        factors: integers `(N, F)`, or floats, which are divided into bins.
        seed: seed of the held-out examples and the forests.

    Raises:
        ValueError: as for `mig`.

    Example:

        >>> factors = np.indices((2, 2, 25)).reshape(3, -1).T[:, :2]
        >>> dci(factors, factors)
        {'disentanglement': 1.0, 'completeness': 1.0, 'informativeness': 1.0}
    """
    from sklearn.ensemble import RandomForestClassifier

    codes, factors = _check(codes, factors)
    order = np.random.default_rng(seed).permutation(len(codes))
    held_out, rest = np.split(order, [-(-len(order) // 5)])
    importances, accuracies = [], []
    for v in factors.T:
        forest = RandomForestClassifier(TREES, max_features=None, min_samples_leaf=LEAF, random_state=seed)
        forest.fit(codes[rest], v[rest])
        importances.append(forest.feature_importances_)
        accuracies.append(forest.score(codes[held_out], v[held_out]))
    importance = np.stack(importances, axis=1)  # (D, F)
    share = importance.sum(axis=1) / max(importance.sum(), 1e-12)  # ρ, (D,)
    return {
        "disentanglement": float(share @ _concentration(importance)),
        "completeness": float(np.mean(_concentration(importance.T))),
        "informativeness": float(np.mean(accuracies)),
    }


def factor_vae_score(codes: Any, factors: Any, group: int = 64, votes: int = 800, seed: int = 0) -> float:
    """Return the accuracy of the majority vote on the factor that is held fixed (Kim & Mnih 2018, §2).

    For a vote, fix a random factor at the value of a random image, draw a group of images with that value, and find
    the latent that varies least relative to its variance over all images. The factor with most votes for a latent is
    the latent's meaning. The score is the accuracy of these meanings in the same number of new votes. Chance is about
    1/F.

    The images of a group are drawn, with replacement, from the rows of `factors`.

    Args:
        codes: `(N, D)`.
        factors: integers `(N, F)`, or floats, which are divided into bins.
        group: number of images in a group, >= 2.
        votes: number of votes of each kind.
        seed: seed of the draws.

    Raises:
        ValueError: if group is below 2 or votes below 1, or as for `mig`.

    Example:

        >>> factors = np.indices((4, 5)).reshape(2, -1).T
        >>> factor_vae_score(factors, factors, votes=100)
        1.0
    """
    if group < 2 or votes < 1:
        raise ValueError(f"Expected `group` >= 2 and `votes` >= 1. Received: group={group}, votes={votes}")
    codes, factors = _check(codes, factors)
    z = codes / codes.std(axis=0)
    rng = np.random.default_rng(seed)
    ballots = np.zeros((2, z.shape[1], factors.shape[1]))
    for ballot in ballots:
        for _ in range(votes):
            k, row = rng.integers(factors.shape[1]), rng.integers(len(z))
            same = np.flatnonzero(factors[:, k] == factors[row, k])
            ballot[z[rng.choice(same, group)].var(axis=0).argmin(), k] += 1
    meaning = ballots[0].argmax(axis=1)  # the factor of each latent, (D,)
    return float(ballots[1][np.arange(z.shape[1]), meaning].sum() / votes)


def _check(codes: Any, factors: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes that vary, scaled to [0, 1], and integer factors; no score depends on the scale."""
    codes, factors = np.asarray(codes, np.float64), np.asarray(factors)
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors) or factors.dtype.kind not in "iubf":
        raise ValueError(
            "Expected codes (N, D) and numeric factors (N, F) of the same N images. "
            f"Received: {codes.shape} and {factors.shape} {factors.dtype}"
        )
    if not np.isfinite(factors).all():
        raise ValueError(
            f"Expected finite factors. Received: {np.count_nonzero(~np.isfinite(factors))} NaN or infinite"
        )
    if len(factors) == 0 or (factors == factors[0]).all(axis=0).any():
        values = [len(np.unique(factor)) for factor in factors.T]
        raise ValueError(
            f"Expected factors with two values or more each. Received: {len(factors)} examples with {values} values"
        )
    codes = as_codes(codes, "codes")
    if factors.dtype.kind == "f":
        low, span = factors.min(axis=0), np.ptp(factors, axis=0)
        factors = _bins((factors - low) / span, FACTOR_BINS)
    low, span = codes.min(axis=0), np.ptp(codes, axis=0)
    if not span.any():
        raise ValueError("Expected a latent that varies. Received: codes that are all constant")
    return ((codes - low) / np.where(span > 0, span, 1))[:, span > 0], factors


def _bins(values: np.ndarray, count: int) -> np.ndarray:
    """Return the bin of each value in [0, 1] among `count` bins of equal width."""
    return np.minimum(values * count, count - 1).astype(np.int64)


def _gap(scores: np.ndarray) -> np.ndarray:
    """Return best minus second best over the latents, `(D, F)` to `(F,)`; a single latent is compared with 0."""
    second, best = np.sort(np.vstack([np.zeros_like(scores[:1]), scores]), axis=0)[-2:]
    return best - second


def _concentration(importance: np.ndarray) -> np.ndarray:
    """Return 1 − the entropy of each row, in the base of its length: 1 for one nonzero entry, 0 for equal entries."""
    size, total = importance.shape[1], importance.sum(axis=1, keepdims=True)
    p = np.divide(importance, total, out=np.full_like(importance, 1 / size), where=total > 0)
    entropy = -np.sum(p * np.log(np.where(p > 0, p, 1.0)), axis=1)
    return 1 - entropy / np.log(max(size, 2))


def _threshold_accuracy(z: np.ndarray, v: np.ndarray) -> float:
    """Return the balanced accuracy of a tree with as many leaves as `v` has values."""
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.tree import DecisionTreeClassifier

    tree = DecisionTreeClassifier(max_leaf_nodes=len(np.unique(v)), class_weight="balanced", random_state=0)
    return float(balanced_accuracy_score(v, tree.fit(z[:, None], v).predict(z[:, None])))
