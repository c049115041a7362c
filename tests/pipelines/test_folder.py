"""A recipe has a folder of its own, whatever its path, and finds its files wherever it is run."""

from pathlib import Path

import pytest
import timm
from ruamel.yaml import YAML
from safetensors.torch import save_file

import recast_gen as rg
from recast_gen.errors import RecipeError
from recast_gen.pipelines import STAGES
from recast_gen.pipelines.folder import Folder, name_of
from recast_gen.pipelines.stage import execute
from recast_gen.recipe.reading import load
from recast_gen.weights.store import load_layers

from ..conftest import PICO_VIT
from .pico import pico


def one_of(depth: int) -> dict:
    return timm.create_model("vit_tiny_patch16_224", **PICO_VIT | {"depth": depth}).state_dict()


def recipe(path: str, checkpoint: str = "vit.safetensors", depth: int = 4) -> str:
    """A recipe of a checkpoint of so many blocks, which lies beside it."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    save_file(one_of(depth), Path(path).with_name(checkpoint))
    tasks = [{"name": "a", "data": {"source": "npz", "path": "a.npz"}}]
    YAML().dump({"model": {"checkpoint": checkpoint}, "tasks": tasks}, Path(path))
    return path


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("pipelines/a.yaml", "a"),
        ("pipelines/sub/a.yaml", "sub/a"),
        ("exp/a.yaml", "exp/a"),
        ("./pipelines/../a b.v2.yaml", "a b.v2"),
        ("../elsewhere/a.yaml", "a"),
    ],
)
def test_outputs_go_by_the_recipes_path(tmp_path, monkeypatch, path, name):
    monkeypatch.chdir(tmp_path)
    assert name_of(Path(path)) == name_of(tmp_path / path) == name


@pytest.mark.parametrize("name", ["a@b", "$HOME", 'a"b', "a`b", "sub/train", "sub/.code", ".code"])
def test_a_name_that_tools_read_as_something_else_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="name"):
        Folder(f"pipelines/{name}.yaml", "extract")


def test_recipes_of_one_name_in_several_folders_share_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for depth, path in enumerate(("pipelines/a.yaml", "exp/a.yaml", "pipelines/sub/a.yaml"), 2):
        execute("extract", recipe(path, depth=depth))
    for depth, name in enumerate(("a", "exp/a", "sub/a"), 2):
        assert len(load_layers(f"weights_store/{name}/extract/extract.zarr")) == len(one_of(depth))
    with pytest.raises(RecipeError, match=r"weights_store/exp/a has the outputs of exp/a.yaml: give pipelines/exp/a"):
        execute("extract", recipe("pipelines/exp/a.yaml"))
    Path("exp/a.yaml").rename("moved.yaml")  # whoever has its name now has its folder
    execute("extract", "pipelines/exp/a.yaml")


def test_a_recipes_paths_are_found_beside_it_in_its_repository_and_where_it_runs(tmp_path, monkeypatch):
    repository = tmp_path / "repository"
    path = recipe(str(repository / "pipelines" / "a.yaml"))
    (repository / "dvc.yaml").touch()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    checkpoint = repository / "pipelines" / "vit.safetensors"
    for place in (checkpoint, repository / checkpoint.name, Path(checkpoint.name)):
        if place != checkpoint:
            checkpoint.rename(place)
        assert load(path).model.checkpoint == str(place)
        execute("extract", path)
        checkpoint = place
    monkeypatch.chdir(repository)
    with pytest.raises(RecipeError) as said:
        execute("extract", "pipelines/a.yaml")
    for word in ("model.checkpoint: vit.safetensors", str(repository / "pipelines"), f"{repository}."):
        assert word in str(said.value)
    with pytest.raises(RecipeError, match="tasks.0.data.path: a.npz"):
        execute("train", "pipelines/a.yaml")


def without(path: Path, *sections: str) -> Path:
    content = YAML(typ="safe").load(path)
    YAML().dump({key: value for key, value in content.items() if key not in sections}, path)
    return path


def test_tasks_train_on_the_bank_of_mimic_where_the_recipe_has_no_study(fitted, capsys, sketched):
    tmp_path, cut, train = fitted, {"groups": 4}, {"epochs": 1, "probe_lrs": None}
    path = without(pico("digits", tmp_path, mimic=cut, train=train), "tune", "mimic_vae", "incremental")
    for stage in STAGES[1:]:
        execute(stage, path)
    said = capsys.readouterr().out
    assert "mimic_vae: the recipe has no such section" in said and "tune: the recipe has no section tune" in said
    store = tmp_path / "weights_store" / "digits"
    banks = [rg.load_bank(store / stage / "bank.zarr") for stage in ("mimic", "tune", "mimic_vae")]
    assert banks[0].hash == banks[1].hash and len(banks[0].groups) == 16 and not banks[2].groups
    made = rg.generate(banks[0], store / "train" / "tasks" / "high.safetensors")
    assert made.keys() >= banks[0].made
    page = (store / "report" / "report.html").read_text()
    assert "The study" not in page and page.count("<svg") > 3
    # a study is the recipe's own affair again once it has one
    execute("mimic_vae", pico("digits", tmp_path, mimic=cut, tune={"groups": [1, 1]}))
    execute("tune", path)
    assert Folder(path, "train").bank(load(path)) == Path("weights_store/digits/tune/bank.zarr")
    alone = without(path, "tune", "mimic")
    assert Folder(path, "train").bank(load(alone)) == Path("weights_store/digits/mimic_vae/bank.zarr")
