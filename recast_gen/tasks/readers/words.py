"""What people call things on disk: classes, parts of a dataset, and what a computer left beside them."""

import re
from collections.abc import Iterable
from unicodedata import normalize

from ...errors import DataError, listing

SPELLINGS = {
    "train": "train training trn",
    "validation": "validation val valid validate validating dev devel development",
    "test": "test testing tst",
}
UNCLEAR = {"trainval", "traintest", "valtest", "eval", "evaluation", "holdout"}  # which part, or are they two?
FILLERS = {"set", "split", "part", "seg", "data", "dataset", "images", "image", "imgs", "img", "photos", "samples"}
LITTER = {
    "__macosx", "__pycache__", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot",
    "$recycle.bin", "system volume information", "lost+found",
}  # fmt: skip
_PART_OF = {word: part for part, words in SPELLINGS.items() for word in words.split()}
_WHOLE = re.compile(r"-?\d{1,18}(\.0+)?")
_JOINT = re.compile(r"_|(?<=[^\W\d_])[-\u2010\u2011](?=[^\W\d_])")  # as good as a space: `_`, a hyphen between letters
_UNSEEN = re.compile("[\u200b-\u200f\u2060\ufeff]")


def litter(name: str) -> bool:
    """Whether a file or folder is hidden, or one that operating systems, notebooks and network disks leave behind."""
    return name.startswith(".") or name.casefold() in LITTER


def tidy(name: str) -> str:
    """A name without what nobody sees: composed letters, single spaces, none at the ends."""
    return " ".join(_UNSEEN.sub("", normalize("NFC", name)).split())


def natural(name: str) -> list[tuple]:
    """A key that sorts numbers within names by value and ignores case, as timm orders classes."""
    words = re.split(r"(\d+)", name.lower())
    return [(word.isdecimal(), int(word) if word.isdecimal() else word) for word in words] + [(False, name)]


def labelled(names: Iterable[str], where: str) -> dict[int, str]:
    """Label -> name: whole numbers are their own labels; else a label is the place in natural order.

    Raises DataError for two names that a person takes for one.
    """
    names = sorted(dict.fromkeys(names), key=natural)
    refuse_alike(names, where)
    if all(map(_WHOLE.fullmatch, names)):
        return dict(sorted((int(name.partition(".")[0]), name) for name in names))
    return dict(enumerate(names))


def alike(name: str) -> str:
    """What names have in common that are one to a person: all but case, width, `_`, hyphens, zeros ahead."""
    key = " ".join(_JOINT.sub(" ", normalize("NFKC", name).casefold()).split())
    return str(int(key.partition(".")[0])) if _WHOLE.fullmatch(key) else key


def refuse_alike(names: Iterable[str], where: str) -> None:
    """Raises DataError for names of classes that are one to a person."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(alike(name), []).append(repr(name))
    if same := [" and ".join(names) for names in found.values() if len(names) > 1]:
        raise DataError(f"{where}: {listing(same, 4)} are one name to a person: give each class a name of its own.")


def part_of(name: str) -> str | None:
    """The part of a dataset that a word means, in any usual spelling: ``Train``, ``valid``, ``seg_test``, ``dev``."""
    found = set(_words(name)) - FILLERS
    return _PART_OF.get(*found) if len(found) == 1 else None


def like_a_part(name: str) -> bool:
    """Whether a name has a word for a part in it, among others."""
    return not (_PART_OF.keys() | UNCLEAR).isdisjoint(_words(name))


def _words(name: str) -> list[str]:
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", normalize("NFKC", name)).lower())
    return [part for word in words for part in _without_filler(word)]


def _without_filler(word: str) -> list[str]:
    """``trainset`` as train and set."""
    return next(([word.removesuffix(end), end] for end in FILLERS if word.removesuffix(end) in _PART_OF), [word])
