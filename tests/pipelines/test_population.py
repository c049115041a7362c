"""A recipe of many networks: trained or read, fitted, judged beside controls, reported."""

import csv
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

import recast_gen as rg
from recast_gen.cli import app
from recast_gen.errors import FitError, RecipeError, SourceError
from recast_gen.pipelines import STAGES
from recast_gen.pipelines.report_population import strips
from recast_gen.pipelines.stage import execute
from recast_gen.recipe.reading import load
from recast_gen.tasks import data
from recast_gen.tasks.controls import unlabelled
from recast_gen.tasks.results import NETWORKS
from recast_gen.weights import checkpoints
from recast_gen.weights.networks import rebuild

from .pico import RECIPES


def pico(folder: Path, name: str = "digits_population", of: str = "digits_population", **model) -> Path:
    recipe = YAML(typ="safe").load(RECIPES / f"{of}.yaml")
    recipe["model"]["kwargs"] |= {"hidden": [16]} if "hidden" in recipe["model"]["kwargs"] else {"channels": [4]}
    recipe["model"]["pretrain"] |= {"epochs": 3, "batch_size": 256}
    recipe["model"] |= {"population": 3} | model
    path = folder / "pipelines" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    YAML().dump({key: value for key, value in recipe.items() if value is not None}, path)
    return path


@pytest.fixture(scope="module")
def ran(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("population")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in STAGES:
            execute(stage, pico(folder))
    return folder


def test_samples_are_judged_beside_all_controls_and_the_report_begins_with_the_verdict(ran):
    store = ran / "weights_store" / "digits_population"
    with (store / "mimic_vae" / "networks.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["kind"] for row in rows} == set(NETWORKS)
    copies = [row for row in rows if row["kind"] == "copy"]
    assert all(float(row["iou"]) > 0.9 and float(row["distance"]) < 0.2 for row in copies)  # a replica is seen as one
    noise, samples = ([float(r["distance"]) for r in rows if r["kind"] == kind] for kind in ("noise", "sample"))
    np.testing.assert_allclose(noise, samples, rtol=0.3)
    page = (store / "report" / "report.html").read_text()
    assert "of 4 aims are met" in page[: page.index("<h2>")] and "two originals, aligned" in page
    assert not any((store / "train" / "tasks").iterdir()) and (store / "tune" / "best.yaml").exists()


def test_controls_that_are_far_worse_do_not_hide_how_the_others_differ():
    shown = strips("all", {"originals": [98.0, 98.5], "samples, not aligned": [20.0, 98.2]})
    assert ">98.0<" in shown and ">20<" not in shown and ">20.0<" not in shown


def test_networks_with_batch_norms_are_judged_with_statistics_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = pico(tmp_path, of="digits_resnets", name="normed", population=2)
    execute("extract", path)
    found = execute("mimic_vae", path)
    execute("report", path)
    assert found["kinds"].keys() == NETWORKS.keys() and found["fit"]["symmetries"] == 3
    assert found["kinds"]["copy"]["accuracy"] == pytest.approx(found["kinds"]["original"]["accuracy"])
    population = rg.load_population("weights_store/normed/mimic_vae/population.zarr")
    splits = data.load(load(path).model.pretrain.data, population.backbone["data_config"], 0)
    drawn = rg.sample(population, 2, images=unlabelled(splits))
    assert any((drawn[0][name] != drawn[1][name]).any() for name in drawn[0] if name.endswith("running_var"))
    page, command = Path("weights_store/normed/report/report.html").read_text(), "--images pipelines/normed.yaml"
    assert command in page
    words = ["sample", "weights_store/normed/mimic_vae/population.zarr", "--n", "2", "--out", "drawn", *command.split()]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    found = checkpoints.read("drawn/sample_001.safetensors")
    assert all(np.array_equal(found[name], each) for name, each in drawn[1].items())


def test_the_command_draws_networks_that_are_checkpoints(ran, monkeypatch):
    monkeypatch.chdir(ran)
    population = "weights_store/digits_population/mimic_vae/population.zarr"
    done = CliRunner().invoke(app, ["sample", population, "--n", "2", "--out", "drawn"])
    assert done.exit_code == 0, done.output
    drawn = rg.sample(population, 2)
    for index, path in enumerate(sorted(Path("drawn").glob("*.safetensors"))):
        found = checkpoints.read(path)
        assert all(np.array_equal(found[name], each) for name, each in drawn[index].items())
        rebuild(found)
    with pytest.raises(FitError, match="--tasks draws tasks of a bank"):
        CliRunner().invoke(app, ["sample", population, "--tasks", "drawn"], catch_exceptions=False)
    done = CliRunner().invoke(app, ["sample", population, "--out", "likely", "--given", "validation=1"])
    assert done.exit_code == 0, done.output
    likely = rg.sample(population, 1, given={"validation": 1.0})[0]
    assert all(np.array_equal(checkpoints.read("likely/sample_000.safetensors")[name], likely[name]) for name in likely)
    with pytest.raises(FitError, match="name=value"):
        CliRunner().invoke(app, ["sample", population, "--given", "validation"], catch_exceptions=False)
    said = CliRunner().invoke(app, ["inspect", population])
    assert "label validation: 0." in said.output
    assert said.exit_code == 0 and "of 3 networks" in said.output and rg.load_population(population).hash in said.output


def test_files_by_a_glob_are_the_same_population(ran, monkeypatch, sketched):
    monkeypatch.chdir(ran)
    files = "weights_store/digits_population/extract/population/*.safetensors"
    path = pico(ran, "read", population=files, pretrain=None)
    recipe = YAML(typ="safe").load(path)
    del recipe["model"]["pretrain"]
    YAML().dump(recipe, path)
    for stage in ("extract", "mimic_vae", "report"):
        execute(stage, path)
    one, other = (rg.load_population(f"weights_store/{name}/mimic_vae/population.zarr") for name in ("read", path.stem))
    trained = rg.load_population("weights_store/digits_population/mimic_vae/population.zarr")
    assert one.hash == other.hash and len(trained.fit["labels"]["validation"]) == 3 and not one.fit["labels"]
    assert all(
        np.array_equal(each, one.network(np.ones(2))[name]) for name, each in trained.network(np.ones(2)).items()
    )
    recipe["model"]["population"] = "nowhere/*.pt"
    YAML().dump(recipe, path)
    with pytest.raises(SourceError, match="nowhere"):
        execute("extract", path)


def test_a_recipe_may_have_a_hidden_layer_and_a_flow_and_its_controls_are_as_exact(ran, monkeypatch):
    monkeypatch.chdir(ran)
    path = pico(ran, "bent", population="weights_store/digits_population/extract/population/*.safetensors")
    recipe = YAML(typ="safe").load(path)
    recipe["mimic_vae"] = {"solver": "vae", "decoder": "mlp", "prior": "flow", "templates": 2, "epochs": 2}
    YAML().dump(recipe, path)
    execute("extract", path)
    found = execute("mimic_vae", path)
    execute("report", path)
    assert set(found["fit"]["held_out"]["network"]) == {"linear", "mlp", "normal", "flow"}
    assert found["kinds"]["copy"]["iou"] == 1 and found["kinds"]["copy"]["distance"] == pytest.approx(0, abs=1e-3)
    bounds, before = found["fit"]["held_out"]["network"], found["hash"]
    assert ("less likely with decoder mlp" in " ".join(found["warnings"])) == (bounds["mlp"] < bounds["linear"])
    said = CliRunner().invoke(app, ["inspect", "weights_store/bent/mimic_vae/population.zarr"]).output
    assert "solver vae decoder mlp prior flow" in said and f"mlp, {bounds['mlp']:.1f} nats" in said
    assert execute("mimic_vae", path)["hash"] == before and not Path("weights_store/bent/mimic_vae/training").exists()
    assert "decoder mlp, prior flow" in Path("weights_store/bent/report/report.html").read_text()


@pytest.mark.parametrize(
    ("section", "change", "said"),
    [
        ("model", {"population": 1}, "model.population"),
        ("model", {"pretrain": None}, "`pretrain`"),
        ("model", {"pretrained": True}, "pretrained: false"),
        ("mimic_vae", {"decoder": "mlp"}, "give `mimic_vae.solver: vae`"),
        ("mimic_vae", {"prior": "flwo"}, "flow"),
        ("tasks", [{"name": "a", "data": {"source": "digits"}}], "leave them out"),
    ],
)
def test_a_recipe_that_makes_no_population_is_refused(section, change, said, tmp_path):
    recipe = YAML(typ="safe").load(pico(tmp_path))
    recipe[section] = recipe.get(section, {}) | change if isinstance(change, dict) else change
    YAML().dump(recipe, tmp_path / "wrong.yaml")
    with pytest.raises(RecipeError, match=said):
        load(tmp_path / "wrong.yaml")
