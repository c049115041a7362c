"""A recipe is drafted for a model and images, and says what it will do before it does."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from recast_gen.cli import app
from recast_gen.errors import RecipeError, SourceError
from recast_gen.pipelines.draft import draft
from recast_gen.pipelines.preview import preview
from recast_gen.recipe.reading import load
from recast_gen.weights.files import save_tensors
from recast_gen.weights.sources import read

from ..conftest import PICO_VIT
from .pico import pico


@pytest.fixture
def mine(tmp_path, monkeypatch, vit):
    """A checkpoint that says its model and a folder of images, in the current folder."""
    import json

    monkeypatch.chdir(tmp_path)
    about = {"timm_model": "vit_tiny_patch16_224", "timm_kwargs": json.dumps(PICO_VIT | {"num_classes": 3})}
    save_tensors("mine.safetensors", dict(read(vit())), about)
    save_tensors("bare.safetensors", dict(read(vit())), {})
    for name, count in (("a cat", 30), ("dog", 20)):
        for index in range(count):
            path = tmp_path / "my photos" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((9, 9, 3), index, np.uint8)).save(path)
    return tmp_path


def test_a_drafted_recipe_runs_and_says_what_it_will_do(mine):
    done = CliRunner().invoke(app, ["init", "mine.safetensors", "my photos"])
    (mine / "r.yaml").write_text(done.stdout)
    recipe = load("r.yaml")
    assert recipe.tasks[0].name == "my_photos" and recipe.model.checkpoint == "mine.safetensors"
    assert "2 classes; images: train 50" in done.stdout and len(recipe.families) == 4
    said = {what: (text, well) for what, text, well in preview("r.yaml")}
    assert all(well for _, well in said.values()), said
    assert "train 34, validation 8, test 8; fewest of 'dog', 20" in said["task my_photos"][0]
    assert "16 layers, 64 coefficients" in said["families"][0]
    assert "3 of 10 epochs on images, 9 of heads" in said["runs"][0] and "weights_store" in said["disk"][0]
    assert "images 3x16x16; head head" in said["model"][0]
    (mine / "my photos" / "dog" / "0.png").write_bytes(b"damaged")
    done = CliRunner().invoke(app, ["check", "r.yaml"])
    assert isinstance(done.exception, RecipeError) and "1 thing(s)" in str(done.exception)
    assert "WRONG" in done.stdout and "0.png" in done.stdout and "coefficients a task" in done.stdout
    assert {path.name for path in mine.iterdir()} == {"bare.safetensors", "mine.safetensors", "my photos", "r.yaml"}


def test_options_and_resolutions_that_cannot_be_are_found_before_anything_is_computed(mine):
    done = CliRunner().invoke(app, ["init", "mine.safetensors", "my photos"])
    own = "incremental: {heads: [ridge], classes_per_step: 1, data: {source: folder, path: my photos}"
    for old, new, what, says in (
        ("resolution: 1 ", "resolution: 8 ", "families", "512 coefficients a task"),
        ("resolution: 1 ", "resolution: 5 ", "families", "resolution=5 does not divide"),
        ("train:", "train:\n  adapter: melo\n  adapter_options: {rnk: 2}", "adapter", "Did you mean 'rank'?"),
        ("train:", "incremental: {heads: [ridge], options: {ridge: {st: 1}}}\ntrain:", "incremental", "option st"),
        ('photos"}', 'photos", classes: [dog, a cat]}', "task my_photos", "2 classes"),
        ('photos"}', 'photos", classes: [dog, a cow]}', "task my_photos", "`classes`. Did you mean 'a cat'?"),
        ('photos"}', 'photos", classes: [dog]}', "task my_photos", "a task needs two classes or more"),
        ("train:", own + "}\ntrain:", "incremental", "ridge; 2 classes"),
        ("train:", own + ", class_orders: [[dog, a cow]]}\ntrain:", "incremental", "'a cat'? The classes: a cat, dog"),
        ("train:", own.replace("my", "our") + "}\ntrain:", "incremental", "Did you mean 'my photos'?"),
    ):  # fmt: skip
        (mine / "r.yaml").write_text(done.stdout.replace(old, new))
        said = {what: (text, well) for what, text, well in preview("r.yaml")}
        assert says in said[what][0] and said[what][1] == (
            says in ("512 coefficients a task", "2 classes", "ridge; 2 classes")
        )


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("2024", "2024"),
        ("1e3", "1e3"),
        ("null", "null"),
        ("Käse", "Kase"),
        ("花", "task"),
        ("---", "task"),
        ("-a", "a"),
    ],
)
def test_a_task_is_called_by_its_folder_whatever_yaml_makes_of_it(mine, folder, name):
    (mine / "my photos").rename(mine / folder)
    (mine / "r.yaml").write_text(draft("mine.safetensors", [f"./{folder}"]))
    assert load("r.yaml").tasks[0].name == name


def test_what_a_recipe_cannot_begin_with_is_refused(mine):
    with pytest.raises(SourceError, match="--name"):
        draft("bare.safetensors", ["my photos"])
    assert "name: vit_tiny_patch16_224" in draft("bare.safetensors", ["my photos"], "vit_tiny_patch16_224")
    with pytest.raises(RecipeError, match="my_photos"):
        draft("mine.safetensors", ["my photos", "my photos"])


def test_runs_and_classes_of_a_recipe_are_counted(tmp_path):
    recipe = load(pico("digits", tmp_path))
    said = {what: text for what, text, _ in preview(pico("digits", tmp_path))}
    task = recipe.tasks[0]
    assert f"{len(task.data.classes)} classes" in said[f"task {task.name}"]
    full = len(recipe.tasks) * (len(recipe.train.seeds) + recipe.train.orders)
    assert said["runs"].startswith(f"{full} of {recipe.train.epochs} epochs")


def test_datasets_that_are_not_there_are_named_and_none_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tasks = "[{name: a, data: {source: torchvision, name: %s}}, {name: b, data: {source: folder, path: data/CUB}}]"
    for name in ("CIFAR10", "Flowers102"):
        Path("r.yaml").write_text(f"model: {{name: test_vit, pretrained: true}}\ntasks: {tasks % name}\n")
        said = {what: (text, well) for what, text, well in preview("r.yaml")}
        assert said["task a"] == (
            f"torchvision's {name} is not in datasets yet: training downloads it, where it can.",
            True,
        )
        assert "data/CUB does not exist" in said["task b"][0] and not said["task b"][1]
        assert [path.name for path in tmp_path.iterdir()] == ["r.yaml"]
