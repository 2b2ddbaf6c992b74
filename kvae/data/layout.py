"""The split and the class of image files, determined by the names of their folders."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kvae.data.errors import DataError
from kvae.data.files import UNSUPPORTED, Parts, Reason, describe_left_out, find_images, list_first
from kvae.data.masks import is_mask
from kvae.data.splits import NAMES

# Words in names, in lower case, and their splits. Two of these depend on the other folders: "trainval" is the training
# split if there is no other one; "eval" is the test split if there is no other one, else the validation split.
WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("trainval", "trainvalid"), "trainval"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "validating", "dev", "devel"), "validation"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
    **dict.fromkeys(("eval", "evaluation", "evaluate", "evaluating", "holdout", "heldout"), "eval"),
}
CHOICES = {"trainval": ("train",), "eval": ("test", "validation")}
FILLER = r"(?:images?|imgs?|pictures?|pics?|photos?|frames?|samples?|data|sets?|splits?|folders?|files?|\d)"
SPLIT = re.compile(rf"{FILLER}*({'|'.join(WORDS)}){FILLER}*")
IMAGES = re.compile(r"(?:raw|rgb|jpe?g|png|input)?[-_ ]?(?:images?|imgs?|pictures?|pics?|photos?)|rgb", re.IGNORECASE)
MASKS = re.compile(
    r"(?:ground[-_ ]?truths?|gts?|masks?|labels?|anno(?:tation)?s?|seg(?:mentation)?(?:s|class|object)?)"
    r"(?:[-_ ]?(?:images?|masks?))?",
    re.IGNORECASE,
)
NO_CLASS = re.compile(r"un(?:known|labell?ed|classified|defined|sorted)|no[-_ ]?labels?|none", re.IGNORECASE)
ORDINARY = re.compile(r"good|ok|okay|normals?|nominal|regular|typical|healthy|negatives?", re.IGNORECASE)

OUTSIDE: Reason = (
    "image outside the train, validation and test folders",
    "images outside the train, validation and test folders",
)
MASK: Reason = ("image in a mask folder", "images in mask folders")
UNCLASSIFIED: Reason = ("image outside the class folders", "images outside the class folders")


class Place(NamedTuple):
    """The split of images, and the folders below the split."""

    split: str
    folders: Parts


@dataclass(frozen=True)
class Layout:
    """Image files in sorted order, with their splits and labels."""

    paths: list[Path]
    splits: np.ndarray  # (N,) names of splits
    labels: np.ndarray | None  # (N,) int64; -1 in a split without labels
    label_names: tuple[str, ...]  # classes with training images first
    message: str  # text of a warning: what was left out, and notes on splits and classes

    @property
    def unlabelled(self) -> frozenset[str]:
        """Splits without labels, if the training images have labels."""
        return frozenset() if self.labels is None else frozenset(self.splits[self.labels < 0].tolist())


def lay_out(root: Path, name: str) -> Layout:
    """Return the image files below a folder, with the splits and labels given by the names of their folders.

    Raises:
        DataError: if there are no images or no training images.
    """
    found = find_images(root)
    left_out: dict[Reason, list[Parts]] = {OUTSIDE: [], MASK: [], UNCLASSIFIED: [], **found.left_out}
    if not found.images:
        left_out.pop(UNSUPPORTED, None)  # included in `other_files`
        received = ", ".join(filter(None, [found.other_files, describe_left_out(left_out)])) or "no files"
        raise DataError(f"{name}: expected a folder with images (png, jpg, …) or TFRecord files. Received: {received}")
    counts = Counter(parts[:-1] for parts in found.images)
    masks = mask_folders(counts)
    tree = Tree({parts: count for parts, count in counts.items() if parts not in masks}, found.folders)
    places = without_wrappers(tree.places())
    classes = classes_of(places, counts)
    kept: list[Parts] = []
    for parts in found.images:
        folder = parts[:-1]
        if folder in classes.labels:
            kept.append(parts)
        elif not is_mask(parts, classes.labels):
            left_out[MASK if folder in masks else UNCLASSIFIED if folder in places else OUTSIDE].append(parts)
    splits = [places[parts[:-1]].split for parts in kept]
    if "train" not in splits:
        received = describe_left_out(left_out) or "none"
        raise DataError(f"{name}: expected images in the train folder. Received: {received}")
    empty = [f"no image in the {split} folder" for split in NAMES if split in tree.empty - set(splits)]
    gone = [f"left out {description}"] if (description := describe_left_out(left_out)) else []
    message = "; ".join([*gone, *empty, *tree.notes, *classes.notes])
    labels = np.array([classes.labels[parts[:-1]] for parts in kept], np.int64) if classes.names else None
    return Layout([root.joinpath(*parts) for parts in kept], np.array(splits), labels, classes.names, message)


# Names.


def words_of(name: str) -> list[str]:
    """Return the words of a name, separated by punctuation, spaces or capitals."""
    return [word for word in re.split(r"[-_.,/()\s]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)) if word]


def split_of(name: str) -> tuple[str, str] | None:
    """Return the split named by a folder name and the rest of the name; None if it names no split or several.

    Example:
        >>> split_of("train"), split_of("Test_Images"), split_of("valset"), split_of("dogs-val")
        (('train', ''), ('test', ''), ('validation', ''), ('validation', 'dogs'))
        >>> split_of("trains"), split_of("testosterone"), split_of("train-test")
        (None, None, None)
    """
    words = words_of(name)
    matches = [SPLIT.fullmatch(word.lower()) for word in words]
    splits = [WORDS[match[1]] for match in matches if match]
    if splits == ["train", "validation"]:
        splits = ["trainval"]
    fill = re.compile(f"{FILLER}+")
    rest = [word for word, match in zip(words, matches) if not match and not fill.fullmatch(word.lower())]
    return (splits[0], " ".join(rest)) if len(splits) == 1 else None


def splits_in(names: Iterable[str], need_train: bool = True) -> dict[str, tuple[str, str]]:
    """Return which of the folders in one folder are splits, each with its split and the class that it names, or "".

    The rest of their names must be empty, or the same for the training split and another one; if there are several such
    groups, each is a class.

    Args:
        names: names of the folders.
        need_train: whether one of them must be the training split.

    Example:
        >>> splits_in(["training", "testing", "docs"])
        {'testing': ('test', ''), 'training': ('train', '')}
        >>> splits_in(["trainA", "testA", "trainB", "testB"])["testB"]
        ('test', 'B')
        >>> splits_in(["train_station", "bus_stop"])
        {}
    """
    named = {name: split_of(name) for name in sorted(names)}
    groups: dict[str, dict[str, str]] = defaultdict(dict)  # by the rest of the names
    for name, found in named.items():
        if found:
            groups[found[1]][name] = found[0]
    chosen = {rest: resolve(group) for rest, group in groups.items()}
    plain = chosen.pop("", {})
    if plain and "train" not in plain.values() and all(named.values()):  # train_v2 beside val and test
        plain |= {name: split for group in chosen.values() for name, split in group.items() if split == "train"}
    if "train" in plain.values() or (plain and not need_train):
        return {name: (split, "") for name, split in plain.items()}
    pairs = {rest: group for rest, group in chosen.items() if {"train"} < set(group.values())}
    several = len(pairs) > 1
    return {name: (split, rest if several else "") for rest, group in pairs.items() for name, split in group.items()}


def resolve(words: Mapping[str, str]) -> dict[str, str]:
    """Replace "trainval" and "eval" by a split that no other name has; names for which none is left are removed.

    Example:
        >>> resolve({"training": "train", "eval": "eval"}), resolve({"a": "test", "b": "eval"})
        ({'training': 'train', 'eval': 'test'}, {'a': 'test', 'b': 'validation'})
    """
    taken = set(words.values())
    free = {word: [split for split in choices if split not in taken] for word, choices in CHOICES.items()}
    return {name: found[0] for name, split in words.items() if (found := free.get(split, [split]))}


def may_be_class(name: str) -> bool:
    """Return whether a name may be a class: it is not the name of a split, of images or of unlabelled images.

    Example:
        >>> [name for name in ("cats", "dev_board", "test", "images", "unlabeled", "") if may_be_class(name)]
        ['cats', 'dev_board']
    """
    is_split = (found := split_of(name)) is not None and not found[1]
    return bool(name) and not (is_split or IMAGES.fullmatch(name) or NO_CLASS.fullmatch(name))


def splits_of_files(paths: Sequence[str]) -> list[str]:
    """Return the first split named in each path, "" if it names none.

    Example:
        >>> splits_of_files(["digits-train-0.tfrecord", "Testing/part-0.tfrecord", "readme.tfrecord"])
        ['train', 'test', '']
    """
    matches = {path: next(filter(None, map(SPLIT.fullmatch, map(str.lower, words_of(path)))), None) for path in paths}
    chosen = resolve({path: WORDS[match[1]] for path, match in matches.items() if match})
    return [chosen.get(path, "") for path in paths]


# Folders.


class Tree:
    """A tree of image folders, which finds the splits in it.

    Args:
        images: number of images in each folder with images.
        folders: all folders, including empty ones, which may have the name of a split.

    Attributes:
        notes: notes for the user on how folders were interpreted.
        empty: splits with a folder without images.
    """

    def __init__(self, images: Mapping[Parts, int], folders: Iterable[Parts]) -> None:
        self.images, self.inside = images, names_inside(images)
        self.named: dict[Parts, set[str]] = defaultdict(set)  # names of the split folders in each folder
        self.notes: list[str] = []
        self.empty: set[str] = set()
        for parts in folders:
            if split_of(parts[-1]):
                self.named[parts[:-1]].add(parts[-1])

    def places(self, top: Parts = (), need_train: bool = True) -> dict[Parts, Place]:
        """Return the place of the images of each folder; folders outside the splits are missing."""
        inside = self.inside[top]
        if splits := self.splits(top, need_train, self.notes):
            self.empty |= {split for name, (split, _) in splits.items() if name not in inside}
            return {
                parts: Place(split, (*filter(None, [label]), *parts[len(top) + 1 :]))
                for name, (split, label) in splits.items()
                for parts in self.below((*top, name))
            }
        divided = {name for name in inside if self.has_splits((*top, name))}
        if divided and len(divided | {name for name in inside if self.splits((*top, name))}) > 1:  # splits of classes
            classes = sorted(name for name in inside if name in divided or self.splits((*top, name), need_train=False))
            found = [(name, self.places((*top, name), name in divided)) for name in classes]
            return {parts: Place(at.split, (name, *at.folders)) for name, below in found for parts, at in below.items()}
        if divided or (len(inside) == 1 and top not in self.images):  # one folder that contains everything
            return self.places((*top, *(divided or inside)))
        depth = len(top)
        if len(inside) > 1 and all((named := split_of(name)) and not named[1] for name in inside):
            self.notes.append(f"no train folder: the images in {', '.join(sorted(inside))} are divided into new splits")
            depth += 1
        return {parts: Place("train", parts[depth:]) for parts in self.below(top)}

    def below(self, top: Parts) -> Iterator[Parts]:
        """Iterate over the folders with images: `top` and those below it."""
        if top in self.images:
            yield top
        for name in self.inside.get(top, ()):
            yield from self.below((*top, name))

    def splits(self, top: Parts, need_train: bool = True, notes: list[str] | None = None) -> dict[str, tuple[str, str]]:
        """Return `splits_in` of a folder."""
        inside = self.inside.get(top, set())
        found = splits_in(inside | self.named.get(top, set()), need_train)
        others = sorted(
            name for name in inside - set(found) if may_be_class(name) and not (split_of(name) or MASKS.fullmatch(name))
        )
        if len(others) > 1 and {split for split, _ in found.values()} == {"train"}:
            deep = {name for name in inside if len(self.inside.get((*top, name), ())) > 1}
            if deep & set(others) or not deep:  # "train" is a vehicle
                if notes is not None:
                    notes.append(
                        f"{', '.join(found)} is a class, like {list_first(others)}; it would be a split if there were "
                        "a folder of validation or test images"
                    )
                return {}
        return found if inside & set(found) else {}

    def has_splits(self, top: Parts) -> bool:
        """Return whether a folder or a subfolder contains a training split and another split."""
        if len({split for split, _ in self.splits(top).values()}) > 1:
            return True
        return any(self.has_splits((*top, name)) for name in self.inside.get(top, ()))


def names_inside(folders: Iterable[Parts]) -> dict[Parts, set[str]]:
    """Return the names of the folders in each folder."""
    inside: dict[Parts, set[str]] = defaultdict(set)
    for parts in folders:
        for depth, name in enumerate(parts):
            inside[parts[:depth]].add(name)
    return inside


def mask_folders(folders: Iterable[Parts]) -> set[Parts]:
    """Return the folders in a mask folder beside an image folder, such as `masks/` beside `images/`."""
    of_images = {top for top, names in names_inside(folders).items() if any(map(IMAGES.fullmatch, names))}
    return {
        parts
        for parts in folders
        if any(parts[:depth] in of_images and MASKS.fullmatch(name) for depth, name in enumerate(parts))
    }


def without_wrappers(places: Mapping[Parts, Place]) -> dict[Parts, Place]:
    """Remove a folder that contains all images, or all images of a split and has its name (or `images`)."""
    found = dict(places)
    for split in (*NAMES, None):
        inside = [parts for parts, place in places.items() if split in (place.split, None)]
        while inside:
            tops = {found[parts].folders[:1] for parts in inside}
            (top,) = tops if len(tops) == 1 else ((),)
            if not top or (split and not (IMAGES.fullmatch(top[0]) or (split_of(top[0]) or "")[:1] == (split,))):
                break
            found |= {parts: found[parts]._replace(folders=found[parts].folders[1:]) for parts in inside}
    return found


# Classes.


class Classes(NamedTuple):
    """The class of the images in each folder; images in missing folders are left out."""

    names: tuple[str, ...]  # none if there are no labels
    labels: dict[Parts, int]  # -1 for a split without labels
    notes: list[str]  # notes for the user


def classes_of(places: Mapping[Parts, Place], images: Mapping[Parts, int]) -> Classes:
    """Return the classes: the first folders in the splits, if there are at least two.

    A split has labels if at least half of its images are in class folders, and some of them in a class with training
    images. Its images outside the class folders are then left out. Classes with training images come first.
    """
    counts: dict[str, Counter[str]] = {split: Counter() for split in NAMES}
    for parts, place in places.items():
        counts[place.split]["".join(place.folders[:1])] += images[parts]
    trained = {name for name in counts["train"] if name}
    classes: dict[str, set[str]] = {}
    notes, unlabelled = list[str](), list[str]()
    for split, found in counts.items():
        known = {name for name in found if name in trained or may_be_class(name)}
        inside = sum(found[name] for name in known)
        if known & trained and 2 * inside >= found.total():
            classes[split] = known
        elif len(known) > (split == "train"):
            where = f"{found.total() - inside} of {found.total()} images are outside the class folders"
            other = f"no training image is in a folder named {list_first(sorted(known))}"
            notes.append(f"no labels in the {split} split: {where if known & trained else other}")
        elif found and trained:
            unlabelled.append(split)
    new = sorted(set().union(*classes.values()) - trained)
    names = (*sorted(trained), *new)
    if len(names) < 2 or "train" not in classes:
        return Classes((), dict.fromkeys(places, -1), notes)
    notes += [f"no labels in the {split} split" for split in unlabelled]
    if new and not (len(trained) == 1 and ORDINARY.fullmatch(names[0])):
        notes.append(f"no training image of the class{'es' * (len(new) > 1)} {', '.join(new)}")
    number = {name: i for i, name in enumerate(names)}
    labels = {}
    for parts, place in places.items():
        name = "".join(place.folders[:1])
        if place.split not in classes:
            labels[parts] = -1
        elif name in classes[place.split]:
            labels[parts] = number[name]
    return Classes(names, labels, notes)
