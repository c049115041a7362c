"""Datasets as their authors publish them: lists beside the images say which part each is in."""

import random
from pathlib import Path

import numpy as np
import pytest

from recast_gen.errors import DataError
from recast_gen.recipe.reading import load as recipe

from .test_readers import images, load, shades

NAMES = ["001.Black_footed_Albatross", "002.Laysan_Albatross", "010.Rusty_Blackbird"]
RECIPES = Path(__file__).parents[2] / "pipelines"


def published(root: Path, kind: str) -> tuple[Path, set[str]]:
    """A dataset of 24 images with lists in CUB's or MIT's way, and its test images."""
    top = images(root / ("images" if kind == "cub" else "Images"), *NAMES)
    paths = [path.relative_to(top).as_posix() for path in sorted(top.rglob("*.png"))]
    random.Random(0).shuffle(paths)
    test = {path for path in paths if path.endswith(("1.png", "5.png", "6.png"))}
    if kind == "cub":
        lists = {
            "images.txt": [f"{number} {path}" for number, path in enumerate(paths, 1)],
            "train_test_split.txt": [f"{number} {int(path not in test)}" for number, path in enumerate(paths, 1)],
        }
    else:
        lists = {"TrainImages.txt": [path for path in paths if path not in test], "TestImages.txt": sorted(test)}
    for name, lines in lists.items():
        (root / name).write_text("\n".join(lines) + "\n")
    return root, test


@pytest.mark.parametrize("kind", ["cub", "mit"])
def test_lists_say_what_is_in_each_part_and_folders_the_classes(tmp_path, kind):
    root, test = published(tmp_path, kind)
    (root / "attributes" / "any").mkdir(parents=True)  # other folders beside the images are no classes
    found = load(root, validation=0.2)
    assert found.classes == NAMES and shades(found) == {name: {place} for place, name in enumerate(NAMES)}
    assert len(found.test) == len(test) == 9 and len(found.train) + len(found.validation) == 15
    assert np.bincount([label for _, label in found.test]).tolist() == [3, 3, 3]


@pytest.mark.parametrize("kind", ["cub", "mit"])
def test_images_that_are_not_there_and_damaged_lists_are_named(tmp_path, kind):
    root, test = published(tmp_path, kind)
    place = "images" if kind == "cub" else "Images"
    gone = min(test)
    (root / place / gone).unlink()
    with pytest.raises(DataError, match=f"1 of the 24 images in its lists are not there: '?{place}/{gone}"):
        load(root)
    if kind == "cub":
        (root / "train_test_split.txt").write_text("1 1\n2\n")
        with pytest.raises(DataError, match=r"train_test_split\.txt, line 2: '2' has 1 words; expected 2"):
            load(root)
        (root / "train_test_split.txt").write_text("1 1\n99 0\n")
        with pytest.raises(DataError, match="have not the same images"):
            load(root)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_recipes(path):
    assert recipe(path).tasks or recipe(path).model.population
