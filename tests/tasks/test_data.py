"""Images of a task: splits that never mix, transforms, and sources that are refused by name."""

import numpy as np
import pytest
import torch
from PIL import Image

from recast_gen.errors import DataError
from recast_gen.recipe import Data
from recast_gen.tasks import data

GREY = {"input_size": [1, 8, 8], "mean": [0.5], "std": [0.5], "crop_pct": 1.0}
COLOUR = {"input_size": [3, 8, 8], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0}


def pixels(dataset) -> set[bytes]:
    return {image.numpy().tobytes() for image, _ in dataset}


def folder_of_images(root, classes=("cat", "dog"), count=10):
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(root / name / f"{index}.png")


def test_splits_are_disjoint_fixed_and_shared_by_all_tasks_of_a_source():
    whole, part = data.load(Data(source="digits"), GREY, 0), data.load(Data(source="digits", classes=[8, 3]), GREY, 0)
    train, validation, test = map(pixels, (whole.train, whole.validation, whole.test))
    assert not train & test and not train & validation and not validation & test
    assert sum(map(len, (whole.train, whole.validation, whole.test))) == 1797
    assert pixels(part.test) <= test and pixels(part.train) <= train
    assert part.classes == ["8", "3"] and {int(label) for _, label in part.test} == {0, 1}


def test_turning_and_negatives_change_the_pixels_and_nothing_else():
    plain, turned, negative = (
        data.load(Data(source="digits", **how), GREY, 0).test for how in ({}, {"rotate": 90}, {"negative": True})
    )
    for (image, label), (rotated, same), (inverse, also) in zip(plain, turned, negative):
        assert torch.equal(rotated, image.rot90(1, (1, 2))) and label == same == also
        assert torch.allclose(inverse, -image, atol=1e-6)


def test_folders_and_npz_files_fit_the_backbone_channels(tmp_path):
    folder_of_images(tmp_path / "photos")
    found = data.load(Data(source="folder", path=str(tmp_path / "photos")), COLOUR, 0)
    assert found.classes == ["cat", "dog"] and found.train[0][0].shape == (3, 8, 8)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (40, 8, 8, 3), dtype=np.uint8), np.arange(40) % 2
    np.savez(tmp_path / "x.npz", x_train=images, y_train=labels, x_test=images[:6], y_test=labels[:6])
    found = data.load(Data(source="npz", path=str(tmp_path / "x.npz")), GREY, 0)
    assert len(found.test) == 6 and len(found.train) + len(found.validation) == 40
    assert found.train[0][0].shape == (1, 8, 8)


def test_what_cannot_be_used_is_refused_by_name(tmp_path):
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    cases = [
        ({"source": "folder", "path": str(tmp_path / "empty")}, "empty is empty"),
        ({"source": "folder", "path": str(tmp_path / "none")}, "none does not exist"),
        ({"source": "npz", "path": str(tmp_path / "none.npz")}, "none.npz does not exist"),
        ({"source": "digits", "classes": [3]}, "two classes or more"),
        ({"source": "digits", "classes": [3, 12]}, "classes 0 to 9; found 12"),
        ({"source": "torchvision", "name": "Flower102"}, "Did you mean 'Flowers102'"),
    ]
    for how, says in cases:
        with pytest.raises(DataError, match=says):
            data.load(Data(**how), GREY, 0)


def test_a_broken_image_is_named(tmp_path):
    folder_of_images(tmp_path)
    (tmp_path / "cat" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="1 of 20 images cannot be read: cat/0.png"):
        found = data.load(Data(source="folder", path=str(tmp_path)), COLOUR, 0)
        [list(part) for part in (found.train, found.validation, found.test)]
