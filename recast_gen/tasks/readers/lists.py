"""Folders of images whose parts are lists of files beside them, as some datasets are published."""

from collections.abc import Callable, Iterator
from pathlib import Path

from ...errors import DataError, listing

Listed = dict[str, list[tuple[Path, str]]]  # part -> images, each with the name of its class
IMAGES = ("images", "Images")  # where they lie


def _numbered(root: Path) -> Iterator[tuple[str, str]]:
    """CUB-200-2011 and NABirds: ``images.txt`` has a number and a path a line, the other list 1 for training."""
    paths, training = (dict(_lines(root / name, 2)) for name in ("images.txt", "train_test_split.txt"))
    if unlike := sorted(paths.keys() ^ training.keys()):
        raise DataError(f"{root}: images.txt and train_test_split.txt have not the same images: {listing(unlike, 4)}.")
    for number, path in paths.items():
        yield "train" if training[number] == "1" else "test", path


def _named(root: Path) -> Iterator[tuple[str, str]]:
    """MIT Indoor Scenes: a list of paths a part."""
    for part, name in (("train", "TrainImages.txt"), ("test", "TestImages.txt")):
        for (path,) in _lines(root / name, 1):
            yield part, path


LAYOUTS: dict[tuple[str, str], Callable[[Path], Iterator[tuple[str, str]]]] = {
    ("images.txt", "train_test_split.txt"): _numbered,  # https://www.vision.caltech.edu/datasets/cub_200_2011
    ("TrainImages.txt", "TestImages.txt"): _named,  # https://web.mit.edu/torralba/www/indoor.html
}


def listed(root: Path) -> Listed | None:
    """The parts that a folder's own lists give, a class being an image's folder; None where it has no such lists.

    Raises:
        DataError: a list is damaged, or images that it names are not there.
    """
    read = next((read for names, read in LAYOUTS.items() if all((root / name).is_file() for name in names)), None)
    if read is None:
        return None
    parts: Listed = {}
    images = next((root / name for name in IMAGES if (root / name).is_dir()), root / IMAGES[0])
    for part, path in read(root):
        parts.setdefault(part, []).append((images / path, Path(path).parent.name))
    files = [path for found in parts.values() for path, _ in found]
    if missing := [path.relative_to(root).as_posix() for path in files if not path.is_file()]:
        raise DataError(
            f"{root}: {len(missing)} of the {len(files)} images in its lists are not there: {listing(missing, 4)}. "
            "Unpack all of the dataset there."
        )
    return parts


def _lines(path: Path, count: int) -> Iterator[list[str]]:
    """The words of every line, `count` of them, of which the last may have spaces."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split(maxsplit=count - 1)
        if words and len(words) != count:
            raise DataError(f"{path}, line {number}: {line!r} has {len(words)} words; expected {count}.")
        if words:
            yield [word.strip() for word in words]
