"""Images that are files of their own: a folder with a subfolder a class, a CSV of paths and labels."""

import csv
from functools import cache
from os.path import isfile
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import DataError, listing, nearest_path, repeated
from ...recipe.images import Data
from .lists import Listed, listed
from .raw import Found, Raw
from .words import SPELLINGS, labelled, like_a_part, litter, natural, part_of, tidy

STUBS = {"BUFR", "GRIB", "HDF5", "MPEG"}  # formats that Pillow knows by name alone
FOREIGN = tuple(".heic .heif .avif .jxl .svg .dcm .dng .cr2 .cr3 .nef .arw .raf .orf .rw2".split())  # noqa: SIM905


def folder(data: Data) -> Found:
    """``root/class/image``, or ``root/train/class/image`` and the same in val and test, however these are spelt.

    Where the folder has lists of its parts (`lists`), they say what is in them.
    A class has the images of its subfolders, links not followed.  What is hidden, what systems leave behind
    (`words.litter`) and what is of no image's suffix does not count.
    """
    root = data.place
    if not root.is_dir():
        found = "is a file, and no .npz or .csv" if root.is_file() else "does not exist"
        near = "" if root.is_file() else nearest_path(root)
        raise DataError(f"{root} {found}; expected a folder with one subfolder of images a class.{near}")
    if lists := listed(root):
        return _by_name(lists, root)
    folders = _subfolders(root)
    parts = _parts(root, folders)
    if len(folders) == 1 and not parts and not _has_images(folders[0]) and _subfolders(folders[0]):
        raise DataError(f"{root} has one subfolder, with others and no images in it: give {folders[0]}.")
    if not parts:
        return _found({"train": folders}, root)
    if twice := repeated(parts.values()):
        raise DataError(f"{root}: of {listing(parts)}, more than one is {listing(twice)}: put them together.")
    return _found({part: _subfolders(root / name) for name, part in parts.items()}, root)


def _subfolders(root: Path) -> list[Path]:
    found = [path for path in root.iterdir() if path.is_dir() and not litter(path.name)]
    return sorted(found, key=lambda path: natural(path.name))


def _parts(root: Path, folders: list[Path]) -> dict[str, str]:
    """Name of a folder -> the part that it is; none where the folders are classes.  Raises DataError in between."""
    parts = {path.name: part for path in folders if (part := part_of(path.name))}
    odd = [path for path in folders if path.name not in parts]
    split = {path.name: {sub.name for sub in _subfolders(path)} for path in folders if not _has_images(path)}
    remedy = f"name the parts {listing(SPELLINGS)}, each with a subfolder of images a class"
    if flat := [name for name in parts if not split.get(name)]:
        if odd and len(flat) == len(parts):
            return {}  # a class may be called train
        raise DataError(f"{root}: {listing(flat)} has no subfolder of images a class: {remedy}, or move it away.")
    if parts:
        if odd:
            beside = listing([path.name for path in odd], 4)
            raise DataError(f"{root}: beside {listing(parts)}, {beside} is no part: {remedy}, and move others away.")
        return parts
    if unclear := [path.name for path in odd if like_a_part(path.name) and split.get(path.name)]:
        raise DataError(f"{root}: {listing(unclear)} may be a part or a class: {remedy}.")
    within = {tuple(sorted(found)) for found in split.values()}
    if len(folders) > 1 and len(split) == len(folders) and len(within) == 1 and len(min(within)) > 1:
        same = f"{listing(split, 4)} have the same subfolders {listing(min(within), 4)} and no images of their own"
        raise DataError(f"{root}: {same}: {remedy}; of classes, put the images into their folders.")
    return {}


def _has_images(folder: Path) -> bool:
    return any(path.suffix.lower() in _suffixes() and not path.is_dir() for path in folder.iterdir())


@cache
def _suffixes() -> set[str]:
    kinds = Image.registered_extensions()
    known = {suffix for suffix, kind in kinds.items() if kind in Image.OPEN.keys() - STUBS}
    return known.union(FOREIGN)  # which then cannot be read, and is said so


def images_in(folder: Path) -> list[Path]:
    """The images of a folder and of its subfolders, links not followed, without what systems leave behind."""
    return [
        path for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in _suffixes() and not path.is_dir()
        and not any(map(litter, path.relative_to(folder).parts))
    ]  # fmt: skip


def _found(parts: dict[str, list[Path]], root: Path) -> Found:
    names = labelled((tidy(path.name) for folders in parts.values() for path in folders), str(root))
    labels, found = {name: label for label, name in names.items()}, {}
    for part, folders in parts.items():
        placed = [(path, labels[tidy(path.name)]) for path in folders]
        if missing := names.keys() - {label for _, label in placed}:
            lacks = listing((names[label] for label in sorted(missing)), 4)
            raise DataError(
                f"{root}: its parts {listing(parts)} have different classes, {part} has no {lacks}; expected the same "
                "subfolders."
            )
        found[part] = _classes(root, placed)
    return found, names


def _classes(root: Path, folders: list[tuple[Path, int]]) -> Raw:
    """The images in folders, each of which has a label."""
    files = []
    for folder, label in folders:
        if nested := [path.name for path in _subfolders(folder) if part_of(path.name)]:
            raise DataError(
                f"{folder} has {listing(nested)} in it, which would be one class together: put the parts above the "
                "classes, as in train/CLASS, or list the images in a CSV with a column split."
            )
        files += [(path, label) for path in images_in(folder)]
    if not files:
        raise DataError(f"{root} has no subfolder of a class with files that Pillow reads as images (.png, .jpg, ...).")
    return _raw(root, files)


def table(data: Data) -> Found:
    """A CSV with the columns ``path,label`` and perhaps ``split``; paths are relative to it."""
    path = data.place
    if not path.is_file():
        found, near = ("is a folder", "") if path.is_dir() else ("does not exist", nearest_path(path))
        raise DataError(f"{path} {found}; expected a CSV with the columns path, label and perhaps split.{near}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            head = file.readline()
            file.seek(0)
            reader = csv.DictReader(file, delimiter=max(",;\t", key=head.count))  # as spreadsheets write it anywhere
            reader.fieldnames = columns = [name.strip().casefold() for name in reader.fieldnames or []]
            rows = dict((reader.line_num, row) for row in reader)  # noqa: C402
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV ({error}): write it again as UTF-8.") from error
    ours = [column for column in columns if column in ("path", "label", "split")]
    if not rows or not {"path", "label"} <= set(ours) or repeated(ours):
        wanted = "path, label and perhaps split, each once, and rows"
        raise DataError(f"{path} has the columns {listing(columns)}; expected {wanted}.")
    splits, problems = "split" in columns, []
    seen: dict[Path, int] = {}
    for line, row in rows.items():
        row["path"], row["label"] = (row["path"] or "").strip(), tidy(row["label"] or "")
        part = (row.get("split") or "").strip()
        row["split"] = part_of(part) if splits else "train"
        if any(row.pop(None, [])):
            problems.append(f"line {line}: more values than columns")
        if not row["label"]:
            problems.append(f"line {line}: no label")
        if not row["split"]:
            problems.append(f"line {line}: split {part!r} is none of {', '.join(SPELLINGS)}")
        if not isfile(path.parent / row["path"]):
            problems.append(f"line {line}: no file {row['path']!r}")
        elif (first := seen.setdefault((path.parent / row["path"]).resolve(), line)) != line:
            problems.append(f"line {line}: {row['path']!r} is in line {first} too")
    if problems:
        raise DataError(f"{path}: {len(problems)} mistake(s): {listing(problems, 8)}. Paths are relative to the CSV.")
    parts: Listed = {}
    for row in rows.values():
        parts.setdefault(row["split"], []).append((path.parent / row["path"], row["label"]))
    return _by_name(parts, path.parent, str(path))


def _by_name(parts: Listed, root: Path, where: str | None = None) -> Found:
    """The images of each part, labelled by the names of their classes."""
    names = labelled((tidy(name) for files in parts.values() for _, name in files), where or str(root))
    labels = {name: label for label, name in names.items()}
    found = {part: [(path, labels[tidy(name)]) for path, name in files] for part, files in parts.items()}
    return {part: _raw(root, files) for part, files in found.items()}, names


def _raw(root: Path, files: list[tuple[Path, int]]) -> Raw:
    paths = [path for path, _ in files]
    names = [path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path) for path in paths]
    labels = np.array([label for _, label in files], dtype=np.int64)
    return Raw(paths.__getitem__, labels, names, on_disk=True, files=paths)
