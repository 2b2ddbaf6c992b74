"""Pixel AUROC and per-region overlap against literal definitions and cases by hand."""

import itertools

import numpy as np
import pytest

from kvae.evaluation import per_region_overlap, pixel_auroc


def regions_of(mask):
    """Return the sets of connected defective pixels of one image, by a search from each pixel."""
    left = {(int(i), int(j)) for i, j in zip(*np.nonzero(mask))}
    regions = []
    while left:
        region, waiting = set(), [left.pop()]
        while waiting:
            i, j = waiting.pop()
            region.add((i, j))
            around = {(i + di, j + dj) for di in (-1, 0, 1) for dj in (-1, 0, 1)} & left
            left -= around
            waiting += around
        regions.append(region)
    return regions


def slow_overlap(maps, masks, limit):
    """The definition, threshold by threshold."""
    regions = [(n, region) for n, mask in enumerate(masks) for region in regions_of(mask)]
    ordinary = [pixel for pixel in np.ndindex(masks.shape) if not masks[pixel]]
    points = [(0.0, 0.0)]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        rate = sum(maps[pixel] >= threshold for pixel in ordinary) / len(ordinary)
        overlap = [sum(maps[n, i, j] >= threshold for i, j in region) / len(region) for n, region in regions]
        points.append((rate, sum(overlap) / len(overlap)))
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 < limit and x1 > x0:
            end = min(x1, limit)
            area += (end - x0) * (y0 + (y0 + (y1 - y0) * (end - x0) / (x1 - x0))) / 2
    return area / limit


def slow_auroc(maps, masks):
    positive, negative = maps[masks], maps[~masks]
    return np.mean([(p > n) + 0.5 * (p == n) for p in positive for n in negative])


@pytest.mark.parametrize("levels", [None, 40, 3, 1])  # equal scores: none, some, most, all
@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
def test_equal_literal_definitions(levels, limit):
    rng = np.random.default_rng(0)
    masks = rng.random((4, 9, 7)) < 0.15
    masks[1] = False  # an image without defects
    masks[2, 3:6, 1:5] = True
    maps = rng.normal(size=masks.shape) + masks
    if levels is not None:
        maps = np.floor(levels * rng.random(masks.shape) ** (2 - masks))
    assert per_region_overlap(maps, masks, limit) == pytest.approx(slow_overlap(maps, masks, limit), abs=1e-12)
    assert pixel_auroc(maps, masks) == pytest.approx(slow_auroc(maps, masks), abs=1e-12)
    assert per_region_overlap(maps[..., None], masks[..., None].astype("uint8"), limit) == per_region_overlap(
        maps, masks, limit
    )


@pytest.fixture
def masks():
    """Two images of 10×10: a region of 1 and a region of 4 pixels, and none. 195 pixels are ordinary."""
    masks = np.zeros((2, 10, 10), bool)
    masks[0, 1, 1] = masks[0, 6:8, 6:8] = True
    return masks


def test_exact_and_opposite_maps(masks):
    assert per_region_overlap(masks, masks) == pixel_auroc(masks, masks) == 1.0
    assert per_region_overlap(~masks, masks) == pixel_auroc(~masks, masks) == 0.0


def test_a_constant_map_is_chance(masks):
    constant = np.full(masks.shape, 2.5)
    assert pixel_auroc(constant, masks) == 0.5
    assert per_region_overlap(constant, masks) == pytest.approx(0.15)  # the mean of the diagonal from 0 to 0.3
    assert per_region_overlap(constant, masks, 1.0) == pytest.approx(0.5)


def test_regions_count_equally(masks):
    """A map that finds only the large region first: 4 of 5 pixels, but one of two regions."""
    large = masks.copy()
    large[0, 1, 1] = False
    assert pixel_auroc(large, masks) == pytest.approx(0.8 + 0.2 * 0.5)
    # From 0.5 at FPR 0 to 1 at FPR 1 on a straight line: 0.5 + 0.5 · 0.15 on average up to 0.3.
    assert per_region_overlap(large, masks) == pytest.approx(0.575)


def test_a_false_alarm_before_the_defects(masks):
    """39 of 195 ordinary pixels (0.2) score higher than all defects: nothing up to 0.2, everything from there on."""
    maps = masks.astype(float)
    maps[1].ravel()[:39] = 2.0
    assert per_region_overlap(maps, masks) == pytest.approx(0.1 / 0.3)
    assert per_region_overlap(maps, masks, 0.2) == pytest.approx(0.0)
    assert per_region_overlap(maps, masks, 1.0) == pytest.approx(0.8)


def test_diagonal_neighbours_are_one_region_and_images_are_separate():
    masks = np.zeros((2, 8, 8), bool)
    masks[0, 2, 2] = masks[0, 3, 3] = True  # one region of two pixels
    masks[1, 3, 3] = True  # another one, although it touches the first across the images
    maps = np.zeros(masks.shape)
    maps[0, 2, 2] = 1.0
    start = 0.5 / 2  # half of the first of two regions at FPR 0, then a line to 1 at FPR 1
    assert per_region_overlap(maps, masks) == pytest.approx(start + (1 - start) * 0.15)


@pytest.mark.parametrize("measure", [pixel_auroc, per_region_overlap])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, m: (x, 0 * m), "no pixel is defective"),
        (lambda x, m: (x, m | True), "every pixel is defective"),
        (lambda x, m: (x[:1], m), r"same shape.*Received: maps of shape \(1, 10, 10\), masks of shape \(2, 10, 10\)"),
        (lambda x, m: (np.where(m, np.nan, x), m), "must be finite. Received: 5 NaN or infinite scores"),
        (lambda x, m: (np.where(m, np.inf, x), m), "5 NaN or infinite"),
        (lambda x, m: (x, 255 * m.astype("uint8")), "`masks > 0` of files with 0 and 255. Received: 255"),
        (lambda x, m: (x, np.where(m, np.nan, 0.0)), "must be booleans, or 0 and 1.*Received: nan"),
        (lambda x, m: (np.stack([x] * 3, -1), m), r"maps.sum\(axis=-1\). Received: shape \(2, 10, 10, 3\)"),
        (lambda x, m: (x, np.stack([m] * 3, -1)), r"`masks` must be an array .*\(2, 10, 10, 3\)"),
        (lambda x, m: (x[0], m[0]), r"`maps` must be .*Received: shape \(10, 10\)"),
        (lambda x, m: (x.astype(str), m), "`maps` must be .*real numbers"),
    ],
)
def test_errors(masks, measure, change, message):
    with pytest.raises(ValueError, match=message):
        measure(*change(np.random.default_rng(0).random(masks.shape), masks))


@pytest.mark.parametrize("limit", [0, 1.1, float("nan")])
def test_limits_out_of_range(masks, limit):
    with pytest.raises(ValueError, match=r"above 0 and at most 1. Received: max_false_positive_rate="):
        per_region_overlap(masks, masks, limit)
