"""Masks of defective pixels, in the layout of MVTec AD."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

import numpy as np

from kvae.data.decoding import read_header
from kvae.data.errors import DataError
from kvae.data.files import Parts, in_threads, list_first
from kvae.data.pillow import Unreadable, open_image

GROUND_TRUTH, SUFFIX = "ground_truth", "_mask.png"


def mask_of(image: Path) -> Path | None:
    """Return the path of the mask of an image; None if the class of the image has training images.

    Example:

        >>> mask_of(Path("bottle/test/crack/007.png")).as_posix()
        'bottle/ground_truth/crack/007_mask.png'
    """
    kind, top = image.parent.name, image.parent.parent.parent
    return None if (top / "train" / kind).is_dir() else top / GROUND_TRUTH / kind / f"{image.stem}{SUFFIX}"


def is_mask(parts: Parts, folders: Container[Parts]) -> bool:
    """Return whether a file is named as the mask of an image in one of the folders.

    Example:

        >>> is_mask(("ground_truth", "crack", "007_mask.png"), {("test", "crack")})
        True
    """
    *top, truth, kind, name = ("", "", *parts)
    return truth == GROUND_TRUTH and name.endswith(SUFFIX) and (*top[2:], "test", kind) in folders


def read_masks(name: str, images: list[Path], size: tuple[int, int]) -> np.ndarray:
    """Return the masks of images, `(N, H, W)` booleans, cropped and resized as the images.

    Args:
        name: name of the source in errors.
        images: paths of the images.
        size: (H, W). Pixels are those of the nearest neighbour.

    Raises:
        DataError: if a mask is missing or unreadable, or has another size than its image file.
    """
    paths = [mask_of(image) for image in images]
    missing = [path for path in paths if path is not None and not path.is_file()]
    if missing:
        raise DataError(
            f"{name}: expected a mask for each image of a class without training images, such as "
            f"{GROUND_TRUTH}/crack/000{SUFFIX} for test/crack/000.png. Received: {len(missing)} of "
            f"{len(images)} masks missing: {list_first(['/'.join(path.parts[-3:]) for path in missing])}"
        )
    masks = np.zeros((len(images), *size), bool)

    def work(row: int) -> None:
        if (path := paths[row]) is not None:
            masks[row] = _read(name, path, images[row], size)

    in_threads(work, range(len(images)))
    return masks


def _read(name: str, path: Path, image: Path, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image, ImageOps

    shown = "/".join(path.parts[-3:])
    try:
        of, its = read_header(image), read_header(path)
        with open_image(path, is_decoded=True) as mask:
            fitted = ImageOps.fit(mask.convert("L"), (size[1], size[0]), Image.Resampling.NEAREST)
            found = np.asarray(fitted) > 0
    except Unreadable as error:
        raise DataError(f"{name}: expected readable masks. Received: {shown} ({error})") from error
    if (of.height, of.width) != (its.height, its.width):
        raise DataError(
            f"{name}: expected a mask of the size of its image, {of.height}x{of.width}. "
            f"Received: {shown} {its.height}x{its.width} (H x W)"
        )
    return found
