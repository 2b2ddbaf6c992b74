"""Draws of labels with the same number of each class."""

import numpy as np


def draw_labels(labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the positions of `count` labelled examples, with the same number of each class, in random order."""
    rng = np.random.default_rng(seed)
    classes = np.unique(labels)
    each = count // len(classes)
    chosen = [rng.choice(np.flatnonzero(labels == label), each, replace=False) for label in classes]
    return rng.permutation(np.concatenate(chosen))
