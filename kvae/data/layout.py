"""Which split and which class image files are of, by the names of the folders that they lie in."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kvae.data.errors import DataError
from kvae.data.files import UNKNOWN_KIND, Parts, Reason, find_images, listed, told
from kvae.data.splits import NAMES

# Words of names, in lower case, and the splits that they speak of. Two of these depend on what else there is:
# "trainval" is the training split without another, "eval" the test split without another, else the validation split.
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
OF_MASKS: Reason = ("image in a folder of masks", "images in folders of masks")
LOOSE: Reason = ("image in no class folder", "images in no class folder")


class Place(NamedTuple):
    """Where images belong: their split, and the folders below that."""

    split: str
    folders: Parts


@dataclass(frozen=True)
class Layout:
    """Image files in sorted order, with what their folders say."""

    paths: list[Path]
    splits: np.ndarray  # (N,) names of splits
    labels: np.ndarray | None  # (N,) int64; -1 in a split that has none
    label_names: tuple[str, ...]  # classes with training images first
    said: str  # what was left out, and what may be a surprise: for a warning

    @property
    def unlabelled(self) -> frozenset[str]:
        """The splits without labels where training images have some."""
        return frozenset() if self.labels is None else frozenset(self.splits[self.labels < 0].tolist())


def lay_out(root: Path, name: str) -> Layout:
    """The image files below a folder, and what the names of their folders say.

    Raises:
        DataError: if there is none, or none to train on.
    """
    found = find_images(root)
    left_out: dict[Reason, list[Parts]] = {OUTSIDE: [], OF_MASKS: [], LOOSE: [], **found.left_out}
    if not found.images:
        left_out.pop(UNKNOWN_KIND, None)  # one of the others
        raise DataError(
            f"{name}: expected a folder with images (png, jpg, …) or TFRecord files. "
            f"Received: neither; {', '.join(filter(None, [found.others, told(left_out)])) or 'no file'}"
        )
    counts = Counter(parts[:-1] for parts in found.images)
    masks = folders_of_masks(counts)
    tree = Tree({parts: count for parts, count in counts.items() if parts not in masks}, found.folders)
    places = unwrapped(tree.places())
    classes = classes_of(places, counts)
    kept: list[Parts] = []
    for parts in found.images:
        folder = parts[:-1]
        if folder in classes.labels:
            kept.append(parts)
        else:
            left_out[OF_MASKS if folder in masks else LOOSE if folder in places else OUTSIDE].append(parts)
    splits = [places[parts[:-1]].split for parts in kept]
    if "train" not in splits:
        raise DataError(f"{name}: expected images in its train folder. Received: none, but {told(left_out)}")
    empty = [f"no image in its {split} folder" for split in NAMES if split in tree.empty - set(splits)]
    gone = [f"left out {everything}"] if (everything := told(left_out)) else []
    said = "; ".join([*gone, *empty, *tree.notes, *classes.notes])
    labels = np.array([classes.labels[parts[:-1]] for parts in kept], np.int64) if classes.names else None
    return Layout([root.joinpath(*parts) for parts in kept], np.array(splits), labels, classes.names, said)


# Names.


def words_of(name: str) -> list[str]:
    """The words of a name, which separators or capitals divide."""
    return [word for word in re.split(r"[-_.,/()\s]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)) if word]


def split_of(name: str) -> tuple[str, str] | None:
    """The split that a folder's name speaks of, and what else it says; None if it speaks of none, or of several.

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


def splits_in(names: Iterable[str], trained: bool = True) -> dict[str, tuple[str, str]]:
    """Which folders side by side are splits: for each of these the split, and the class that it names or "".

    What their names say besides must be nothing, or the same for a training and another split; where there are several
    such pairs, each is a class.

    Args:
        names: of the folders.
        trained: whether one of them must be the training split.

    Example:
        >>> splits_in(["training", "testing", "docs"])
        {'testing': ('test', ''), 'training': ('train', '')}
        >>> splits_in(["trainA", "testA", "trainB", "testB"])["testB"]
        ('test', 'B')
        >>> splits_in(["train_station", "bus_stop"])
        {}
    """
    said = {name: split_of(name) for name in sorted(names)}
    groups: dict[str, dict[str, str]] = defaultdict(dict)  # by what else the names say
    for name, found in said.items():
        if found:
            groups[found[1]][name] = found[0]
    chosen = {rest: choose(group) for rest, group in groups.items()}
    plain = chosen.pop("", {})
    if plain and "train" not in plain.values() and all(said.values()):  # train_v2 beside val and test
        plain |= {name: split for group in chosen.values() for name, split in group.items() if split == "train"}
    if "train" in plain.values() or (plain and not trained):
        return {name: (split, "") for name, split in plain.items()}
    pairs = {rest: group for rest, group in chosen.items() if {"train"} < set(group.values())}
    several = len(pairs) > 1
    return {name: (split, rest if several else "") for rest, group in pairs.items() for name, split in group.items()}


def choose(said: Mapping[str, str]) -> dict[str, str]:
    """The splits of names, where "trainval" and "eval" are what no other name is; without those that are nothing then.

    Example:
        >>> choose({"training": "train", "eval": "eval"}), choose({"a": "test", "b": "eval"})
        ({'training': 'train', 'eval': 'test'}, {'a': 'test', 'b': 'validation'})
    """
    taken = set(said.values())
    free = {word: [split for split in choices if split not in taken] for word, choices in CHOICES.items()}
    return {name: found[0] for name, split in said.items() if (found := free.get(split, [split]))}


def may_be_class(name: str) -> bool:
    """Whether a name says more than that of a split, of images, or of what has no label.

    Example:
        >>> [name for name in ("cats", "dev_board", "test", "images", "unlabeled", "") if may_be_class(name)]
        ['cats', 'dev_board']
    """
    is_split = (said := split_of(name)) is not None and not said[1]
    return bool(name) and not (is_split or IMAGES.fullmatch(name) or NO_CLASS.fullmatch(name))


def splits_of_files(paths: Sequence[str]) -> list[str]:
    """The split that each path speaks of first, "" for one that speaks of none.

    Example:
        >>> splits_of_files(["digits-train-0.tfrecord", "Testing/part-0.tfrecord", "readme.tfrecord"])
        ['train', 'test', '']
    """
    matches = {path: next(filter(None, map(SPLIT.fullmatch, map(str.lower, words_of(path)))), None) for path in paths}
    chosen = choose({path: WORDS[match[1]] for path, match in matches.items() if match})
    return [chosen.get(path, "") for path in paths]


# Folders.


class Tree:
    """Folders of images, and where in it the splits are.

    Args:
        images: the number of images in each folder that has some.
        folders: all folders: an empty one may be named as a split.

    Attributes:
        notes: what may be a surprise.
        empty: splits that have a folder without an image.
    """

    def __init__(self, images: Mapping[Parts, int], folders: Iterable[Parts]) -> None:
        self.images, self.inside = images, names_inside(images)
        self.named: dict[Parts, set[str]] = defaultdict(set)  # what folders called as splits lie in each
        self.notes: list[str] = []
        self.empty: set[str] = set()
        for parts in folders:
            if split_of(parts[-1]):
                self.named[parts[:-1]].add(parts[-1])

    def places(self, top: Parts = (), trained: bool = True) -> dict[Parts, Place]:
        """Where the images of each folder belong; those outside the splits belong nowhere."""
        inside = self.inside[top]
        if splits := self.splits(top, trained, self.notes):
            self.empty |= {split for name, (split, _) in splits.items() if name not in inside}
            return {
                parts: Place(split, (*filter(None, [label]), *parts[len(top) + 1 :]))
                for name, (split, label) in splits.items()
                for parts in self.below((*top, name))
            }
        divided = {name for name in inside if self.has_splits((*top, name))}
        if divided and len(divided | {name for name in inside if self.splits((*top, name))}) > 1:  # in each class
            classes = sorted(name for name in inside if name in divided or self.splits((*top, name), trained=False))
            found = [(name, self.places((*top, name), name in divided)) for name in classes]
            return {parts: Place(at.split, (name, *at.folders)) for name, below in found for parts, at in below.items()}
        if divided or (len(inside) == 1 and top not in self.images):  # a folder around everything
            return self.places((*top, *(divided or inside)))
        depth = len(top)
        if len(inside) > 1 and all((said := split_of(name)) and not said[1] for name in inside):
            self.notes.append(f"no train folder: the images in {', '.join(sorted(inside))} are divided into new splits")
            depth += 1
        return {parts: Place("train", parts[depth:]) for parts in self.below(top)}

    def below(self, top: Parts) -> Iterator[Parts]:
        """The folders with images: this one, and those below it."""
        if top in self.images:
            yield top
        for name in self.inside.get(top, ()):
            yield from self.below((*top, name))

    def splits(self, top: Parts, trained: bool = True, notes: list[str] | None = None) -> dict[str, tuple[str, str]]:
        """`splits_in` a folder."""
        inside = self.inside.get(top, set())
        found = splits_in(inside | self.named.get(top, set()), trained)
        others = sorted(
            name for name in inside - set(found) if may_be_class(name) and not (split_of(name) or MASKS.fullmatch(name))
        )
        if len(others) > 1 and {split for split, _ in found.values()} == {"train"}:
            deep = {name for name in inside if len(self.inside.get((*top, name), ())) > 1}
            if deep & set(others) or not deep:  # a vehicle among others
                if notes is not None:
                    notes.append(
                        f"{', '.join(found)} is taken as a class, as {listed(others)} are; it would be a split "
                        "beside a folder of validation or test images"
                    )
                return {}
        return found if inside & set(found) else {}

    def has_splits(self, top: Parts) -> bool:
        """Whether a training split and another lie in a folder, or deeper."""
        if len({split for split, _ in self.splits(top).values()}) > 1:
            return True
        return any(self.has_splits((*top, name)) for name in self.inside.get(top, ()))


def names_inside(folders: Iterable[Parts]) -> dict[Parts, set[str]]:
    """The names of the folders that lie in each one."""
    inside: dict[Parts, set[str]] = defaultdict(set)
    for parts in folders:
        for depth, name in enumerate(parts):
            inside[parts[:depth]].add(name)
    return inside


def folders_of_masks(folders: Iterable[Parts]) -> set[Parts]:
    """Those of `folders` that are, or lie in, one of masks beside one of images, as in `images/`, `masks/`."""
    of_images = {top for top, names in names_inside(folders).items() if any(map(IMAGES.fullmatch, names))}
    return {
        parts
        for parts in folders
        if any(parts[:depth] in of_images and MASKS.fullmatch(name) for depth, name in enumerate(parts))
    }


def unwrapped(places: Mapping[Parts, Place]) -> dict[Parts, Place]:
    """Places without a folder around all images of a split that is called as it (or `images`), or around all images."""
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
    """The class of the images in each folder; images in folders that are missing are left out."""

    names: tuple[str, ...]  # none if there are no labels
    labels: dict[Parts, int]  # -1 for a split without labels
    notes: list[str]  # what may be a surprise


def classes_of(places: Mapping[Parts, Place], images: Mapping[Parts, int]) -> Classes:
    """The classes: the first folders in the splits, if there are two.

    A split has labels if at least half of its images are in class folders, and some in one that has training images;
    its other images are left out then. Classes with training images come first.
    """
    counts: dict[str, Counter[str]] = {split: Counter() for split in NAMES}
    for parts, place in places.items():
        counts[place.split]["".join(place.folders[:1])] += images[parts]
    trained = {name for name in counts["train"] if name}
    classes: dict[str, set[str]] = {}
    notes, silent = list[str](), list[str]()
    for split, found in counts.items():
        known = {name for name in found if name in trained or may_be_class(name)}
        inside = sum(found[name] for name in known)
        if known & trained and 2 * inside >= found.total():
            classes[split] = known
        elif len(known) > (split == "train"):
            where = f"{found.total() - inside} of {found.total()} images are in no class folder"
            other = f"no training image is in a folder {listed(sorted(known))}"
            notes.append(f"no labels in the {split} split: {where if known & trained else other}")
        elif found and trained:
            silent.append(split)
    new = sorted(set().union(*classes.values()) - trained)
    names = (*sorted(trained), *new)
    if len(names) < 2 or "train" not in classes:
        return Classes((), dict.fromkeys(places, -1), notes)
    notes += [f"no labels in the {split} split" for split in silent]
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
