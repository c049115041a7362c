"""Images that are files of their own: a folder with a subfolder a class, a CSV of paths and labels."""

import csv
from functools import partial
from os.path import isfile
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import DataError, listing, repeated
from ...recipe.images import Data
from .raw import PART_NAMES, Found, Raw

STUBS = {"BUFR", "GRIB", "HDF5", "MPEG"}  # formats that Pillow knows by name alone


def folder(data: Data) -> Found:
    """``root/class/image``, or ``root/train/class/image`` and the same in val and test.

    A class has the images of its subfolders, links not followed; what is hidden or of no suffix that Pillow reads by
    itself is no image.
    """
    root = Path(data.path)
    if not root.is_dir():
        found = "is a file" if root.is_file() else "does not exist"
        raise DataError(f"{root} {found}; expected a folder with one subfolder of images a class.")
    names = _subfolders(root)
    odd = [name for name in names if name not in PART_NAMES]
    if odd == names or (odd and "train" not in names):
        return {"train": _classes(root, names)}, names
    if odd:
        raise DataError(f"{root}: beside train, {listing(odd, 4)} is none of {listing(PART_NAMES)}: move it away.")
    if twice := repeated(PART_NAMES[name] for name in names):
        raise DataError(f"{root}: of {listing(names)}, more than one is {listing(twice)}: put them together.")
    classes = {name: _subfolders(root / name) for name in names}
    if len({tuple(found) for found in classes.values()}) > 1:
        raise DataError(f"{root}: its parts {listing(names)} have different classes; expected the same subfolders.")
    return {PART_NAMES[name]: _classes(root / name, classes[name]) for name in names}, classes[names[0]]


def _subfolders(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _classes(root: Path, names: list[str]) -> Raw:
    kinds = Image.registered_extensions()
    known = {suffix for suffix, kind in kinds.items() if kind in Image.OPEN.keys() - STUBS}
    files = [
        (path, label) for label, name in enumerate(names) for path in sorted((root / name).rglob("*"))
        if path.suffix.lower() in known and not any(word.startswith(".") for word in path.relative_to(root).parts)
        and not path.is_dir()
    ]  # fmt: skip
    if not files:
        raise DataError(f"{root} is empty: no subfolder holds a file that Pillow reads as an image (.png, .jpg, ...).")
    return _raw(root, files)


def table(data: Data) -> Found:
    """A CSV with the columns ``path,label`` and perhaps ``split``; paths are relative to it."""
    path = Path(data.path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {found}; expected a CSV with the columns path, label and perhaps split.")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, columns = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV ({error}): write it again as UTF-8.") from error
    ours = [column for column in columns if column in ("path", "label", "split")]
    if not rows or not {"path", "label"} <= set(ours) or repeated(ours):
        wanted = "path, label and perhaps split, each once, and rows"
        raise DataError(f"{path} has the columns {listing(columns)}; expected {wanted}.")
    splits, problems, seen = "split" in columns, [], {}
    for line, row in enumerate(rows, start=2):
        row["path"], row["label"] = (row["path"] or "").strip(), (row["label"] or "").strip()
        part = (row.get("split") or "").strip().lower()
        row["split"] = PART_NAMES.get(part) if splits else "train"
        if not row["label"]:
            problems.append(f"line {line}: no label")
        if not row["split"]:
            problems.append(f"line {line}: split {part!r} is none of {', '.join(PART_NAMES)}")
        if not isfile(path.parent / row["path"]):
            problems.append(f"line {line}: no file {row['path']!r}")
        elif (first := seen.setdefault((path.parent / row["path"]).resolve(), line)) != line:
            problems.append(f"line {line}: {row['path']!r} is in line {first} too")
    if problems:
        raise DataError(f"{path}: {len(problems)} mistakes: {listing(problems, 8)}. Paths are relative to the CSV.")
    names = {row["label"] for row in rows}
    names = sorted(names, key=(lambda name: (int(name), name)) if all(map(str.isdecimal, names)) else None)
    position = {name: label for label, name in enumerate(names)}
    found: dict[str, list[tuple[Path, int]]] = {}
    for row in rows:
        found.setdefault(row["split"], []).append((path.parent / row["path"], position[row["label"]]))
    return {part: _raw(path.parent, files) for part, files in found.items()}, names


def _raw(root: Path, files: list[tuple[Path, int]]) -> Raw:
    paths = [path for path, _ in files]
    names = [path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path) for path in paths]
    labels = np.array([label for _, label in files], dtype=np.int64)
    return Raw(partial(_image, paths), labels, names, on_disk=True, files=paths)


def _image(paths: list[Path], row: int) -> Image.Image:
    with Image.open(paths[row]) as image:
        if image.mode[0] in "IF":  # PIL would clip them
            raise DataError(f"its pixels have more than 8 bits, mode {image.mode}: convert it")
        return image.convert("RGB")
