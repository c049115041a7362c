"""Readers understand what people's datasets are like, or refuse it by name: labels, parts, litter, other kinds."""

from pathlib import Path
from tempfile import TemporaryDirectory
from unicodedata import normalize

import numpy as np
import pytest
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from recast_gen.errors import DataError
from recast_gen.recipe.images import Data
from recast_gen.tasks import data
from recast_gen.tasks.readers import vision, words

CONFIG = {"input_size": [3, 4, 4], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0}


def images(folder: Path, *classes: str, count: int = 8, kind: str = "png") -> Path:
    """A folder a class with images that are as bright as the class's place."""
    for place, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (4, 4), (place * 10,) * 3).save(folder / name / f"{index}.{kind}")
    return folder


def load(path: Path, **how) -> data.Splits:
    source = {".npz": "npz", ".csv": "csv"}.get(path.suffix, "folder")
    return data.load(Data(source=source, path=str(path), **how), CONFIG, 0)


def shades(found: data.Splits) -> dict[str, set[int]]:
    """Class -> the places that its images were drawn for."""
    pairs = [pair for part in (found.train, found.validation, found.test) for pair in part]
    return {
        name: {round((float(image[0, 0, 0]) + 1) * 12.75) for image, label in pairs if label == place}
        for place, name in enumerate(found.classes)
    }


@settings(max_examples=5)
@given(st.sets(st.integers(0, 120), min_size=3, max_size=6), st.randoms(use_true_random=False))
def test_labels_are_the_numbers_that_classes_are_called_in_every_reader(numbers, random):
    with TemporaryDirectory() as root:
        root = Path(root)
        numbers = random.sample(sorted(numbers), len(numbers))
        folder, wanted = images(root / "f", *map(str, numbers)), numbers[:2]
        rows = [f"{path},{path.parent.name}" for path in folder.rglob("*.png")]
        (root / "t.csv").write_text("\n".join(["path,label", *rows]))
        pixels = np.repeat([np.full((4, 4, 3), place * 10, np.uint8) for place in range(len(numbers))], 8, 0)
        np.savez(root / "a.npz", x=pixels, y=np.repeat(numbers, 8))
        for path in (folder, root / "t.csv", root / "a.npz"):
            assert shades(load(path, classes=wanted)) == {str(wanted[0]): {0}, str(wanted[1]): {1}}
            assert load(path).classes == list(map(str, sorted(numbers)))
            with pytest.raises(DataError, match=r"found 121 in `classes`"):
                load(path, classes=[wanted[0], 121])


def test_names_with_numbers_are_in_natural_order_and_whole_numbers_of_other_spellings_are_their_labels(tmp_path):
    assert load(images(tmp_path / "a", "c10", "C2", "c1", "b")).classes == ["b", "c1", "C2", "c10"]
    assert load(images(tmp_path / "b", "010", "002", "7"), classes=[2, 7]).classes == ["002", "7"]
    assert load(images(tmp_path / "c", "10.0", "2.0"), classes=[10, 2]).classes == ["10.0", "2.0"]


def test_numbers_below_zero_are_labels_and_a_hyphen_between_letters_is_a_space():
    assert words.labelled(["1", "0", "-1", "10"], "x") == {-1: "-1", 0: "0", 1: "1", 10: "10"}
    with pytest.raises(DataError, match="'red fox'.*'red-fox'"):
        words.labelled(["red-fox", "red fox", "2-1", "2 1"], "x")
    assert len(words.labelled(["2-1", "2 1", "-1"], "x")) == 3


def test_names_that_are_one_to_a_person_are_one_class_or_refused(tmp_path):
    composed, apart = (normalize(form, "café") for form in ("NFC", "NFD"))
    for part, name in (("train", composed), ("test", apart)):
        images(tmp_path / "accents" / part, name, "tea")
    found = load(tmp_path / "accents")
    assert found.classes == [composed, "tea"] and len(found.test) == 16
    rows = [f"{path},{name}" for path, name in zip(images(tmp_path / "f", "x").rglob("*.png"), ("a b", " a  b") * 4)]
    (tmp_path / "spaces.csv").write_text("\n".join(["path,label", *rows]))
    with pytest.raises(DataError, match="found 1 .a b."):
        load(tmp_path / "spaces.csv")
    for first, second in (("Cat", "cat"), ("red_fox", "red fox"), ("1", "01"), ("1", "１"), ("ｃat", "cat")):
        folder = images(tmp_path / f"{first} {second}", first, second, "other")
        with pytest.raises(DataError, match=f"'{first}' and '{second}'|'{second}' and '{first}'"):
            load(folder)
    images(images(tmp_path / "parts", "train", count=0) / "train", "Cat", "dog")
    images(tmp_path / "parts" / "test", "cat", "dog")
    with pytest.raises(DataError, match="'Cat' and 'cat'"):
        load(tmp_path / "parts")


SPELT = [
    ("Train", "Val", "TEST"), ("training", "validation", "testing"), ("train_set", "valid_set", "test_set"),
    ("seg_train", "dev", "seg_test"), ("Training Set", "Development Set", "Test Set"), ("train7", "val7", "test1"),
    ("TrainImages", "ValidImages", "TestImages"), ("trainset", "devset", "testset"), ("1-train", "2-val", "3-test"),
]  # fmt: skip


@pytest.mark.parametrize("names", SPELT, ids=lambda names: names[0])
def test_parts_are_understood_in_folders_and_tables_however_they_are_spelt(names, tmp_path):
    rows = []
    for name, count in zip(names, (8, 3, 2)):
        images(tmp_path / "f" / name, "cat", "dog", count=count)
        rows += [f"{path},{path.parent.name},{name}" for path in (tmp_path / "f" / name).rglob("*.png")]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,split", *rows]))
    for path in (tmp_path / "f", tmp_path / "t.csv"):
        found = load(path)
        assert found.classes == ["cat", "dog"] and not found.split_off
        assert [len(part) for part in (found.train, found.validation, found.test)] == [16, 6, 4]


@pytest.mark.parametrize("names", [("train_cleaned", "test"), ("eval", "train"), ("fold1", "fold2"), ("x", "y", "z")])
def test_parts_of_unknown_names_are_refused_and_never_classes(names, tmp_path):
    for name in names:
        images(tmp_path / name, "cat", "dog")
    with pytest.raises(DataError, match=f"(?s){names[0]}.*name the parts train, validation, test"):
        load(tmp_path)


def test_parts_without_classes_or_within_them_are_refused_but_a_class_may_be_called_train(tmp_path):
    assert load(images(tmp_path / "a", "train", "bus", "bullet train")).classes == ["bullet train", "bus", "train"]
    with pytest.raises(DataError, match="test, train has no subfolder of images a class"):
        load(images(tmp_path / "b", "train", "test"))
    for name in ("cat", "dog"):
        images(tmp_path / "c" / name, "train", "test")
        images(images(tmp_path / "d", name) / name, "old", "test")
    for path in (tmp_path / "c", tmp_path / "d"):
        with pytest.raises(DataError, match="train"):
            load(path)
    images(tmp_path / "e" / "train", "cat", "dog")
    images(tmp_path / "e", "test")  # its images have no class
    with pytest.raises(DataError, match="test has no subfolder of images a class"):
        load(tmp_path / "e")


def test_what_systems_leave_behind_never_counts(tmp_path):
    litter = [".ipynb_checkpoints", "@eaDir", "__MACOSX", ".Trash-1000", "$RECYCLE.BIN", "#recycle", "lost+found"]
    images(tmp_path, "cat", "dog", *litter)
    for name in litter:
        images(tmp_path / "cat", name)
    (tmp_path / "dog" / "._0.png").write_bytes(b"of a Mac")
    found = load(tmp_path)
    assert found.classes == ["cat", "dog"] and sum(map(len, (found.train, found.validation, found.test))) == 16
    assert load(images(tmp_path / "signs", "@", "#", "$", "=")).classes == ["#", "$", "=", "@"]


def test_images_of_formats_that_are_not_read_here_are_named_and_not_passed_over(tmp_path):
    images(tmp_path, "cat", "dog")
    (tmp_path / "cat" / "phone.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(DataError, match="1 of 17 images cannot be read: cat/phone.HEIC"):
        load(tmp_path)


def test_rows_of_another_form_are_refused_by_their_line(tmp_path):
    folder = images(tmp_path / "f", "a", "b")
    lines = [f"{path},{path.parent.name}" for path in folder.rglob("*.png")]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *lines, "", f"{folder}/a,1.png,a"]))
    with pytest.raises(DataError, match=r"line 19: more values than columns"):
        load(tmp_path / "t.csv")
    np.savez(tmp_path / "first.npz", x=np.zeros((8, 3, 6, 6), np.uint8), y=np.arange(8) % 2)
    with pytest.raises(DataError, match="6 channels; expected `n h w c`.*are they `n c h w`"):
        load(tmp_path / "first.npz")
    arrays = {"x_train": np.zeros((8, 4, 4), np.uint8), "y_train": np.arange(8) % 2}
    for other in ("X_test", "test_images"):
        np.savez(tmp_path / "other.npz", **arrays, **{other: arrays["x_train"]})
        with pytest.raises(DataError, match=f"nothing like {other}"):
            load(tmp_path / "other.npz")


def test_datasets_that_do_not_classify_are_refused_by_what_they_are_for():
    names = [name for names in vision.NO_CLASSES.values() for name in names.split()]
    assert set(names) <= set(torchvision.datasets.__all__)
    for name, says in (("Kitti", "detection"), ("Sintel", "optical flow"), ("CelebA", "several attributes")):
        with pytest.raises(DataError, match=f"torchvision's {name} is for {says}"):
            data.load(Data(source="torchvision", name=name), CONFIG, 0)
    with pytest.raises(DataError, match="EMNIST needs split: give `options"):
        data.load(Data(source="torchvision", name="EMNIST"), CONFIG, 0)
    with pytest.raises(DataError, match="source: folder"):
        data.load(Data(source="torchvision", name="ImageFolder"), CONFIG, 0)


@given(st.text("aA0９²é_ \u200b", max_size=12))
def test_any_name_has_a_place_in_natural_order(name):
    assert sorted([name, "a"], key=words.natural) and words.tidy(words.tidy(name)) == words.tidy(name)


def test_images_are_compared_by_the_names_or_labels_of_a_networks_outputs(tmp_path):
    path = str(images(tmp_path / "f", "3", "7", "10", count=2))
    for how, labels in (
        ({"outputs": 20}, [3, 7, 10]), ({"outputs": 3}, [0, 1, 2]), ({"classes": ["10", "x", "7", "3"]}, [3, 2, 0])
    ):  # fmt: skip
        assert [int(label) for _, label in data.load_all(path, CONFIG, **how)][::2] == labels
    for how in ({"classes": ["3", "7"]}, {"outputs": 5}):
        with pytest.raises(DataError, match="has images of"):
            data.load_all(path, CONFIG, **how)
