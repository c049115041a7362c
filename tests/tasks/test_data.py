"""Images of a task: splits that never mix, transforms, and sources that are refused by name."""

import csv
import inspect
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from torch.utils.data import DataLoader, TensorDataset

from recast_gen.errors import DataError
from recast_gen.recipe.images import Data
from recast_gen.tasks import data
from recast_gen.tasks.readers import vision

GREY = {"input_size": [1, 8, 8], "mean": [0.5], "std": [0.5], "crop_pct": 1.0}
COLOUR = {"input_size": [3, 8, 8], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0}


@pytest.fixture(autouse=True)
def digits_each_time(monkeypatch):
    monkeypatch.setattr(data, "_dataset", data._dataset.__wrapped__)


def pixels(dataset) -> set[bytes]:
    return {image.numpy().tobytes() for image, _ in dataset}


def folder_of_images(root, classes=("cat", "dog"), count=10):
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)).save(root / name / f"{index}.png")


def npz(path, count=40, shape=(8, 8, 3), **others) -> str:
    images = np.random.default_rng(0).integers(0, 255, (count, *shape), dtype=np.uint8)
    np.savez(path, **{"x_train": images, "y_train": np.arange(count) % 2} | others)
    return str(path)


def table(path: Path, rows: list[tuple], head=("path", "label", "split")) -> str:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return str(path)


def test_splits_are_disjoint_fixed_and_shared_by_all_tasks_of_a_source():
    whole, part = data.load(Data(source="digits"), GREY, 0), data.load(Data(source="digits", classes=[8, 3]), GREY, 0)
    train, validation, test = map(pixels, (whole.train, whole.validation, whole.test))
    assert not train & test and not train & validation and not validation & test
    assert sum(map(len, (whole.train, whole.validation, whole.test))) == 1797
    assert pixels(part.test) <= test and pixels(part.train) <= train
    assert part.classes == ["8", "3"] and {int(label) for _, label in part.test} == {0, 1}
    rows = [int(row["image"]) for row in whole.split_off if row["part"] == "test"]
    assert whole.split_off == part.split_off and len(rows) == len(whole.test) == len(set(rows))


@given(st.lists(st.integers(3, 40), min_size=2, max_size=6), st.integers(0, 9))
def test_every_class_is_in_every_part_however_few_images_it_has(counts, seed):
    with TemporaryDirectory() as root:
        labels = np.repeat(range(len(counts)), counts)
        np.savez(f"{root}/x.npz", x=np.arange(len(labels) * 3, dtype=np.uint8).reshape(-1, 1, 1, 3), y=labels)
        found = data.load(Data.of(f"{root}/x.npz"), COLOUR, seed)
        parts = [data.labels_of(part) for part in (found.train, found.validation, found.test)]
        assert all(set(part) == set(range(len(counts))) for part in parts)
        assert np.bincount(np.concatenate(parts)).tolist() == counts
        assert sum(map(len, parts[1:])) <= max(0.31 * len(labels) + 2, 2 * len(counts) + 0.3 * len(labels))


def test_classes_are_chosen_by_name_or_number():
    by_name = data.load(Data(source="digits", classes=["8", 3]), GREY, 0)
    assert by_name.classes == ["8", "3"]
    merged = data.load(Data(source="digits", classes={"odd": ["1", 3], "even": [0, "2"]}), GREY, 0)
    assert merged.classes == ["odd", "even"] and len(merged.test) > len(by_name.test)


def test_several_labels_can_be_one_class():
    asked = {"odd": [1, 3, 5], "even": [0, 2]}
    found, apart = (data.load(Data(source="digits", classes=how), GREY, 0) for how in (asked, [1, 3, 5, 0, 2]))
    assert found.classes == list(asked) and len(found.test) == len(apart.test)
    assert [int(label) for _, label in found.test] == [int(label) > 2 for _, label in apart.test]
    with pytest.raises(ValidationError, match="lists a label twice: 3"):
        Data(source="digits", classes={"odd": [1, 3], "prime": [2, 3]})


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
    test = {"x_test": np.zeros((6, 8, 8, 3), np.uint8), "y_test": np.arange(6) % 2}
    found = data.load(Data(source="npz", path=npz(tmp_path / "x.npz", **test)), GREY, 0)
    assert len(found.test) == 6 and len(found.train) + len(found.validation) == 40
    coded = npz(tmp_path / "bytes.npz", classes=[b"cat", "käse".encode()])
    assert data.load(Data.of(coded), COLOUR, 0).classes == ["cat", "käse"]
    part = Data(source="npz", path=npz(tmp_path / "part.npz", classes=["cat", "other", "other"]), classes=[0, 1])
    assert data.load(part, GREY, 0).classes == ["cat", "other"]
    assert found.train[0][0].shape == (1, 8, 8) and {row["part"] for row in found.split_off} == {"validation"}
    grey = data.load(Data(source="npz", path=npz(tmp_path / "grey.npz", shape=(8, 8, 1))), COLOUR, 0)
    assert grey.train[0][0].shape == (3, 8, 8)


def test_a_class_has_its_images_of_any_depth_and_suffix_and_nothing_hidden(tmp_path):
    folder_of_images(tmp_path, count=20)
    folder_of_images(tmp_path / "cat", classes=("siamese", ".ipynb_checkpoints"))
    folder_of_images(tmp_path, classes=(".cache",))
    for path in (tmp_path / "dog").glob("1?.png"):
        Image.open(path).save(path.with_suffix(".JFIF"), format="jpeg")
        path.unlink()
    (tmp_path / "dog" / "notes.txt").write_text("of no image")
    (tmp_path / "dog" / "features.h5").write_text("of no image")
    (tmp_path / "dog" / "album.png").mkdir()
    found = data.load(Data(source="folder", path=str(tmp_path)), COLOUR, 0)
    labels = [int(label) for part in (found.train, found.validation, found.test) for _, label in part]
    assert found.classes == ["cat", "dog"] and (labels.count(0), labels.count(1)) == (30, 20)


def test_a_table_says_what_a_folder_says_and_may_split(tmp_path):
    folder_of_images(tmp_path)
    parts = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    rows = [(f"{name}/{i}.png", name, parts[i]) for name in ("cat", "dog") for i in range(10)]
    found = data.load(Data(source="csv", path=table(tmp_path / "all.csv", rows)), COLOUR, 0)
    assert (len(found.train), len(found.validation), len(found.test)) == (12, 4, 4) and not found.split_off
    whole = table(tmp_path / "whole.csv", [row[:2] for row in rows], ("path", "label"))
    split, folder = (
        data.load(Data(source=source, path=path), COLOUR, 0)
        for source, path in (("csv", whole), ("folder", str(tmp_path)))
    )
    assert split.classes == folder.classes == ["cat", "dog"] and split.split_off == folder.split_off
    assert pixels(split.test) == pixels(folder.test)
    numbers = table(
        tmp_path / "n.csv", [(path, {"cat": 10, "dog": 9}[name]) for path, name, _ in rows], head=("path", "label")
    )
    assert data.load(Data(source="csv", path=numbers), COLOUR, 0).classes == ["9", "10"]
    for separator, head in ((";", "Path; LABEL"), ("\t", "path\tlabel")):
        text = "\n".join([head, *(f'"{path}"{separator}{name}' for path, name, _ in rows)])
        (tmp_path / "other.tsv").write_text(text)
        assert data.load(Data.of(tmp_path / "other.tsv"), COLOUR, 0).split_off == split.split_off
    wide = table(tmp_path / "wide.csv", [(*row[:2], "", "") for row in rows], ("path", "label", "", ""))
    assert data.load(Data(source="csv", path=wide), COLOUR, 0).classes == ["cat", "dog"]  # as spreadsheets write it


def test_what_does_not_fit_in_memory_is_read_by_workers_to_the_same_images(tmp_path, monkeypatch):
    folder_of_images(tmp_path)
    how = Data(source="folder", path=str(tmp_path), negative=True)
    kept = data.load(how, COLOUR, 0).train
    monkeypatch.setattr(data, "IN_MEMORY", 0)
    read = data.load(how, COLOUR, 0).train
    assert isinstance(kept, TensorDataset) and not isinstance(read, TensorDataset)
    images, labels = map(torch.cat, zip(*DataLoader(read, batch_size=3, num_workers=2)))
    assert torch.equal(images, kept.tensors[0]) and torch.equal(labels, kept.tensors[1])


def test_augmented_images_differ_each_time_and_others_never_do():
    found = data.load(Data(source="digits"), GREY, 0, augment="timm")
    assert not torch.equal(found.train[0][0], found.train[0][0])
    assert torch.equal(found.test[0][0], data.load(Data(source="digits"), GREY, 0).test[0][0])


def test_what_cannot_be_used_is_refused_by_name(tmp_path):
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    folder_of_images(tmp_path / "photos")
    (tmp_path / "photos" / "cow").mkdir()
    folder_of_images(tmp_path / "one", classes=["cat"])
    folder_of_images(tmp_path / "few", count=1)
    folder_of_images(tmp_path / "above" / "photos")
    for part in ("train", "val", "validation"):
        folder_of_images(tmp_path / "twice" / part)
        folder_of_images(tmp_path / "odd" / part.replace("validation", "extra"))
    (tmp_path / "no.npz").touch()
    grey, named = np.zeros((2, 8, 8), np.uint8), npz(tmp_path / "named.npz", classes=["cat", "dog"])
    photos = [("photos/cat/0.png", "cat", "train"), ("photos/none.png", "dog", "train"), ("photos/dog/0.png", "", "x")]
    cases = [
        ({"source": "folder", "path": tmp_path / "empty"}, "empty has no subfolder of a class"),
        ({"source": "folder", "path": tmp_path / "none"}, "none does not exist"),
        ({"source": "folder", "path": tmp_path / "photos"}, "no train images of class cow"),
        ({"source": "folder", "path": tmp_path / "one"}, "two classes or more; found 1 .*Add images of"),
        ({"source": "folder", "path": tmp_path / "few"}, "no test images of class cat, dog: to split .* 3 or more"),
        ({"source": "npz", "path": npz(tmp_path / "p.npz", x_test=grey, y_test=[0, 0])}, "of class 1. Add some"),
        ({"source": "npz", "path": npz(tmp_path / "l.npz", classes=[b"caf\xe9", b"tea"])}, "0xe9.*words, str"),
        ({"source": "npz", "path": named, "classes": {"a": ["cat"], "b": [0, 1]}}, "and by its name: 0 .cat.. Give"),
        ({"source": "csv", "path": tmp_path / "none.csv"}, "none.csv does not exist"),
        ({"source": "csv", "path": table(tmp_path / "a.csv", [("x", 1)], ("file", "label"))}, "columns file, label"),
        ({"source": "csv", "path": tmp_path}, "is a folder; expected a CSV"),
        ({"source": "csv", "path": table(tmp_path / "d.csv", photos[:1] * 2)}, "line 3: .* is in line 2 too"),
        ({"source": "csv", "path": table(tmp_path / "b.csv", photos)}, "(?s)3 mistake.*line 3.*none.png.*line 4.*'x'"),
        ({"source": "csv", "path": table(tmp_path / "e.csv", [("x" * 999, 1, "test")])}, "line 2: no file 'xx"),
        (
            {"source": "csv", "path": table(tmp_path / "f.csv", [("x", 1, 2)], ("path", "label", "label"))},
            "columns path, label, label; expected path, label and perhaps split, each once",
        ),
        ({"source": "folder", "path": tmp_path / "odd"}, "beside train, val, extra is no part: name"),
        ({"source": "folder", "path": tmp_path / "twice"}, "more than one is validation: put them together"),
        ({"source": "npz", "path": tmp_path / "none.npz"}, "none.npz does not exist"),
        ({"source": "npz", "path": tmp_path / "no.npz"}, "no.npz cannot be read as an .npz"),
        ({"source": "npz", "path": npz(tmp_path / "5.npz", shape=(8, 8, 5))}, "images of 5 channels"),
        ({"source": "npz", "path": npz(tmp_path / "c.npz", classes=["cat"])}, "names 1 classes but has label 1"),
        ({"source": "npz", "path": npz(tmp_path / "f.npz", y_train=np.zeros(40))}, "expected whole numbers"),
        ({"source": "npz", "path": npz(tmp_path / "s.npz", y_train=["cat"] * 40)}, "labels <U3; expected whole"),
        ({"source": "npz", "path": npz(tmp_path / "2.npz", classes=["cat"] * 2)}, "2.npz: 'cat' and 'cat' are one"),
        ({"source": "npz", "path": npz(tmp_path / "n.npz", y_train=np.zeros(39, int))}, "one label an image"),
        ({"source": "npz", "path": npz(tmp_path / "w.npz", y_train=np.arange(40) * 10**9)}, "to 39000000000; expected"),
        ({"source": "npz", "path": npz(tmp_path / "0.npz", shape=(0, 0))}, "images of 0 x 0 pixels"),
        ({"source": "npz", "path": npz(tmp_path / "o.npz", classes=np.array(["a", "b"], object))}, "words, str"),
        ({"source": "npz", "path": npz(tmp_path / "_.npz", classes=["a", " "])}, "no name for class 1"),
        ({"source": "folder", "path": tmp_path / "0.npz"}, "is a file, and no .npz or .csv"),
        ({"source": "folder", "path": tmp_path / "above"}, "and no images in it: give .*photos"),
        ({"source": "npz", "path": npz(tmp_path / "v.npz", x_valid=np.zeros(3))}, "nothing like x_valid"),
        ({"source": "npz", "path": npz(tmp_path / "t.npz", x_test=np.zeros(3))}, "nothing like x_test"),
        ({"source": "digits", "classes": [3]}, "two classes or more"),
        ({"source": "digits", "classes": [3, 12]}, "classes 0, 1, .* 9; found 12"),
        ({"source": "torchvision", "name": "Flower102"}, "Did you mean 'Flowers102'"),
        ({"source": "torchvision", "name": "FakeData"}, "has no dataset 'FakeData'"),
        ({"source": "torchvision", "name": "DTD", "options": {"partitions": 1}}, "mean .partition.. It takes .*part"),
    ]  # fmt: skip
    for how, says in cases:
        with pytest.raises(DataError, match=says):
            data.load(Data(**{key: str(value) if key == "path" else value for key, value in how.items()}), GREY, 0)
    configs = [
        ({"input_size": [4, 8, 8]}, "images of 4 channels"),
        ({"mean": [0.5] * 3}, "1 channels, but mean .* 3 values: give one a channel, such as `mean: \\[0.5\\]`"),
        ({"std": None}, "1 channels, but std"),
    ]
    for config, says in configs:
        with pytest.raises(DataError, match=says):
            data.load(Data(source="digits"), GREY | config, 0)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_pixels_that_do_not_fit_in_8_bits_are_refused_and_never_clipped(dtype, tmp_path):
    folder_of_images(tmp_path)
    Image.fromarray(np.full((9, 9), 300, dtype)).save(tmp_path / "cat" / "deep.tif")
    with pytest.raises(DataError, match="1 of 21 images cannot be read: cat/deep.tif .*more than 8 bits"):
        data.load(Data(source="folder", path=str(tmp_path)), COLOUR, 0)


def test_broken_images_are_all_named_and_counted_whether_left_out_or_not(tmp_path):
    folder_of_images(tmp_path)
    (tmp_path / "cat" / "0.png").write_bytes(b"no image")
    whole = (tmp_path / "dog" / "3.png").read_bytes()
    (tmp_path / "dog" / "3.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="(?s)2 of 20 images cannot be read: cat/0.png .*dog/3.png .*skip_corrupt"):
        data.load(Data(source="folder", path=str(tmp_path)), COLOUR, 0)
    with pytest.warns(UserWarning, match="2 of 20 images cannot be read and are left out: cat/0.png .*dog/3.png"):
        found = data.load(Data(source="folder", path=str(tmp_path), skip_corrupt=True), COLOUR, 0)
    assert len(found.skipped) == 2 and "cat/0.png" in found.skipped[0]
    assert sum(map(len, (found.train, found.validation, found.test))) == 18


class Fake:
    """Stands for a torchvision dataset whose server is gone: 12 grey images a part, labels 0 and 1."""

    classes = ["zero", "one"]

    def __init__(self, root, split="train", partition=1, download=False):
        torchvision.datasets.utils.verify_str_arg(split, "split", ("trainval", "test", "extra"))
        if download:
            raise ValueError("The original URL is broken")
        self.split, self._labels = split, [index % 2 for index in range(12)]

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return Image.new("L", (8, 8), 20 * index + (self.split == "test")), self._labels[index]


def test_torchvisions_datasets_give_their_own_splits_even_where_the_server_is_gone(monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "StanfordCars", Fake)
    found = data.load(Data(source="torchvision", name="StanfordCars", options={"partition": 2}), GREY, 0)
    assert found.classes == ["zero", "one"] and len(found.test) == 12
    assert {row["part"] for row in found.split_off} == {"validation"} and not pixels(found.train) & pixels(found.test)
    monkeypatch.setattr(Fake, "classes", ["crane", "crane"])  # as ImageNet's
    assert data.load(Data(source="torchvision", name="StanfordCars"), GREY, 0).classes == ["crane 0", "crane 1"]
    with pytest.raises(DataError, match="URL is broken.*put its files under"):
        monkeypatch.setattr(Fake, "__init__", lambda self, root, download=False: Fake._gone())
        monkeypatch.setattr(Fake, "_gone", lambda: (_ for _ in ()).throw(RuntimeError("URL is broken")), raising=False)
        data.load(Data(source="torchvision", name="StanfordCars"), GREY, 0)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Flowers102", ["train", "val", "test"]), ("FGVCAircraft", ["train", "val", "test"]),
        ("DTD", ["train", "val", "test"]), ("StanfordCars", ["train", "test"]), ("SVHN", ["train", "test"]),
        ("Food101", ["train", "test"]), ("OxfordIIITPet", ["trainval", "test"]), ("STL10", ["train", "test"]),
        ("GTSRB", ["train", "test"]), ("Country211", ["train", "valid", "test"]), ("CIFAR10", [True, False]),
        ("CIFAR100", [True, False]), ("MNIST", [True, False]), ("EuroSAT", []), ("SUN397", []),
    ],
)  # fmt: skip
def test_the_official_splits_of_the_installed_torchvision_are_those_asked_for(name, expected, tmp_path):
    kind = getattr(torchvision.datasets, name)
    assert "root" in inspect.signature(kind).parameters
    accepted = []
    for choices in vision.wanted(vision.arguments(kind), {}).values():
        for choice in choices:
            try:
                kind(tmp_path, **choice)  # there are no files, and it is not asked to download any
            except ValueError as error:
                assert "Unknown value" in str(error) and "argument split" in str(error)
                continue
            except (RuntimeError, FileNotFoundError):
                pass
            accepted += choice.values()
            break
    assert accepted == expected
