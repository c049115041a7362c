"""Every stage through its real entry point, on pico variants of the shipped recipes."""

import csv
import filecmp
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

import recast_gen as rg
from recast_gen.bank.taskfile import record, sizes
from recast_gen.errors import RecastError
from recast_gen.pipelines import STAGES
from recast_gen.pipelines.stage import Folder, execute
from recast_gen.pipelines.study_pictures import pareto
from recast_gen.recipe.images import Data
from recast_gen.recipe.reading import load
from recast_gen.tasks import data

from ..process import forked, free_port
from .pico import GREY, pico


def run_all(recipe: Path) -> None:
    for stage in STAGES:
        execute(stage, recipe)


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal logits, but for the rounding of numpy's and torch's sums, which differs by processor."""
    return bool((one - other).abs().max() < 1e-5 * max(1, other.abs().max()))


@pytest.mark.parametrize("name", ["vit_small_att", "vit_small_mlp"])
def test_a_shipped_recipe_of_fewer_layers_is_fitted_and_studied_offline(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for stage in STAGES[: STAGES.index("train")]:
        execute(stage, recipe := pico(name, tmp_path))
    bank = rg.load_bank(f"weights_store/{name}/tune/bank.zarr")
    assert all(name.removeprefix("vit_small_") in family for family in bank.families) and len(bank.families) == 2
    assert bank.hash == json.loads(Path(f"weights_store/{name}/tune/metrics.json").read_text())["hash"]
    assert load(recipe).train.epochs == 2  # what follows is as of both kinds of layers


@pytest.mark.parametrize("name", ["digits", "vit_small_att_mlp", "resnet34"])
def test_every_shipped_recipe_runs_offline_and_generates_what_was_trained(
    name, all_stages, tmp_path, monkeypatch, request
):
    monkeypatch.chdir(tmp_path)
    folder = all_stages if name == "digits" else tmp_path
    if folder is tmp_path:
        request.getfixturevalue("sketched")
        run_all(pico(name, tmp_path))
    store = folder / "weights_store" / name
    for stage in STAGES:
        assert json.loads((store / stage / "metrics.json").read_text())

    bank, task = rg.load_bank(store / "tune" / "bank.zarr"), store / "train" / "tasks" / "high.safetensors"
    model = timm.create_model(bank.backbone["timm_model"], **bank.backbone["timm_kwargs"])
    plain = timm.create_model(bank.backbone["timm_model"], **bank.backbone["timm_kwargs"])
    plain.load_state_dict(load_file(store / "generate" / "weights" / "high.safetensors"), strict=True)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in rg.generate(bank).items()})
    rg.attach(model, bank)
    rg.load_task(task, model, bank)
    images = torch.stack([image for image, _ in data.load(Data(source="digits"), GREY, seed=0).test])[:32]
    with torch.no_grad():
        assert near(model.eval()(images), plain.eval()(images))

    runs = list(csv.DictReader((store / "train" / "runs.csv").open()))
    assert {row["method"] for row in runs} == {"linear_probe", "coefficients"}
    assert json.loads((store / "train" / "metrics.json").read_text())["forgetting"] == 0
    head = sum(size for name, _, _, size in sizes(task) if name in ("head.weight", "head.bias", "fc.weight", "fc.bias"))
    assert 0 < task.stat().st_size - head < 1024
    page = (store / "report" / "report.html").read_text()
    pictures = re.findall("<svg[^>]*>", page)
    assert len(pictures) > 10 and all('role="img"' in svg and 'aria-label="' in svg for svg in pictures)
    count = next(row["coefficients"] for row in runs if row["method"] == "coefficients")
    assert f"({count} trainable parameters besides the" in page and "nothing was forgotten" in page
    assert ("Classes one after another" in page) == (name == "digits") == ("processor seconds a step" in page)
    assert "trained until" in page and f"torch {torch.__version__}" in page and "recast predict" in page
    assert not any(outside in page for outside in ("<script", "<link", "src=", 'href="http'))


def test_two_runs_from_nothing_are_byte_identical(all_stages, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = pico("digits", tmp_path)
    for stage in STAGES[:-1]:
        execute(stage, recipe)
    one, two = (folder / "weights_store" for folder in (all_stages, tmp_path))
    files = [path.relative_to(one) for path in one.rglob("*") if path.is_file() and path.parent.name != "report"]
    files = [
        path for path in files if not any(word in path.name for word in ("study.journal", "costs", "report.html"))
    ]  # with times
    assert len(files) > 60
    assert filecmp.cmpfiles(one, two, files, shallow=False)[1:] == ([], [])
    for costs in one.rglob("costs.csv"):
        shutil.copy(costs, two / costs.relative_to(one))
    execute("report", recipe)
    for name in ("report.html", "metrics.json"):
        assert filecmp.cmp(one / "digits/report" / name, two / "digits/report" / name, shallow=False)


def test_a_stage_by_hand_writes_the_same_as_execute(fitted):
    before = {path: path.read_bytes() for path in Path("weights_store/digits/mimic").rglob("*") if path.is_file()}
    by_hand = [sys.executable, "-m", "recast_gen.pipelines.mimic"]  # the default recipe is this one
    subprocess.run(by_hand, check=True)
    assert all(path.read_bytes() == content for path, content in before.items())


def test_direct_and_the_plain_autoencoder_run_from_a_recipe(fitted, capsys):
    direct = {"solver": "direct", "direct": {"steps": 20}}
    exact = execute("mimic", pico("digits", fitted))
    descended = execute("mimic", recipe := pico("digits", fitted, mimic=direct, mimic_vae={"variational": False}))
    assert exact["relative_error"] < 1e-6 < descended["relative_error"]
    assert [row["gap"] > 1e-6 for row in exact["certificate"] + descended["certificate"]] == [False] * 8 + [True] * 8
    assert capsys.readouterr().out.count("8 of 8 groups are above the least error") == 1
    execute("mimic_vae", recipe)
    bank = rg.load_bank("weights_store/digits/mimic_vae/bank.zarr")
    with pytest.raises(RecastError, match="variational=True"):
        rg.sample(bank)


def test_a_recipe_rounds_its_templates_and_tasks_train_on_them(fitted):
    few = pico("digits", fitted, mimic={"bits": 4, "whiten": True, "images": 32}, tune={"choose": "mimic", "trials": 1})
    metrics = execute("mimic", few)
    assert metrics["fit"]["bits"] == 4 and metrics["fit"]["calibrated"] and 0.1 < metrics["stored_share"] < 0.25
    execute("tune", few)
    execute("train", few)
    execute("generate", few)
    assert rg.load_bank("weights_store/digits/tune/bank.zarr").fit["bits"] == 4


def test_a_recipe_compresses_at_a_budget_by_images_of_its_own(fitted):
    recipe = pico("digits", fitted, mimic={"layout": "auto", "budget": 0.6, "whiten": True, "images": 32})
    metrics = execute("mimic", recipe)
    assert 0.4 < metrics["stored_share"] <= 0.6 and metrics["fit"]["layout"] == "auto" and metrics["fit"]["whitened"]
    bank = rg.load_bank("weights_store/digits/mimic/bank.zarr")
    assert all("output_error" in measured for measured in bank.certificate.values())


def test_a_recipe_trains_norms_and_further_templates_at_their_own_resolution_and_rate(fitted):
    tune = {"norms": "shared", "extend": {"source": "vae", "templates": 2}, "choose": "mimic"}
    train = {
        "lr": None,
        "head_lr": None,
        "head_start": "random",
        "resolution": {"*.attn.qkv": "head", "*.mlp.fc1": 2, "*.norm1": 4},
    }
    recipe = pico("digits", fitted, tune=tune, train=train)
    for stage in ("tune", "train", "generate"):
        execute(stage, recipe)
    bank = rg.load_bank("weights_store/digits/tune/bank.zarr")
    assert bank.groups["blocks.*.attn.qkv.weight", 0].templates.shape[0] == 4
    assert (bank.fit["norms"], bank.fit["extended"]) == ("shared", {"vae": 2, "seed": 0})
    rows = csv.DictReader(Path("weights_store/digits/train/runs.csv").read_text().splitlines())
    row = next(row for row in rows if row["method"] == "coefficients")
    assert int(row["coefficients"]) == 4 * 4 * (6 + 1 + 2 + 1) and int(row["norms"]) > 0
    blocks = record("weights_store/digits/train/tasks/high.safetensors").resolution
    assert dict(zip(bank.families, blocks))["blocks.*.norm1.weight"] == 4
    learnt = "weights_store/digits/generate/weights/high.safetensors"
    tune = {"choose": "mimic", "extend": {"source": "tasks", "templates": 1, "tasks": [learnt]}}
    execute("tune", pico("digits", fitted, tune=tune))
    assert rg.load_bank("weights_store/digits/tune/bank.zarr").fit["extended"] == {"tasks": 1, "seed": 0}
    for more in ({"source": "singular", "rank": 2}, {"source": "fourier", "templates": 3}):
        execute("tune", pico("digits", fitted, tune={"choose": "mimic", "extend": more}))
        group = next(iter(rg.load_bank("weights_store/digits/tune/bank.zarr").groups.values()))
        assert (group.own.source, group.own.count) == (more["source"], 4 if "rank" in more else 3)


def test_a_recipe_splits_qkv_and_each_third_has_groups_of_its_own(tmp_path, monkeypatch, sketched):
    monkeypatch.chdir(tmp_path)
    tune = {"per_family": True, "trials": 6, "resolutions": ["head"], "objectives": ["relative_error", "coefficients"]}
    tune |= {"generators": ["mimic"], "constraints": {"relative_error": 0.4, "disagreement": 1.0}}
    train = {"adapter": "melo", "lr": None, "epochs": 1, "probe_lrs": None}
    recipe = pico(
        "digits", tmp_path, incremental=None, split_qkv=True, families=["*.qkv"], tune=tune, train=train,
        mimic={"whiten": True, "images": 32}, mimic_vae={"tokens": "neuron", "epochs": 2},
    )  # fmt: skip
    run_all(recipe)
    store = Path("weights_store/digits")
    bank, tasks = rg.load_bank(store / "tune" / "bank.zarr"), store / "train" / "tasks"
    assert list(bank.families) == [f"blocks.*.attn.qkv#{part}.weight" for part in "kqv"]
    assert len({tuple(bank.fit["cuts"][name]) for name in bank.families}) > 1
    assert {path.stem for path in tasks.iterdir()} == {"high", "negative"}
    lib = rg.TaskLibrary(tasks, bank=bank)
    images = torch.randn(4, 1, 8, 8)
    for name in lib.names:
        lib.use(name)
        plain = timm.create_model(bank.backbone["timm_model"], **bank.backbone["timm_kwargs"] | {"num_classes": 5})
        plain.reset_classifier(len(lib.task(name).about["classes"]))
        plain.load_state_dict(load_file(store / "generate" / "weights" / f"{name}.safetensors"), strict=True)
        with torch.no_grad():
            assert near(lib(images), plain.eval()(images))


def test_two_devices_train_together_and_the_first_alone_writes_and_speaks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = {"devices": 2, "accelerator": "cpu", "probe_lrs": None, "epochs": 1}
    images = {"source": "digits", "classes": [5, 6, 7, 8]}  # 107 to validate on, an odd number
    tasks = [{"name": "high", "data": images}]
    pretrain = {"devices": 2, "accelerator": "cpu", "epochs": 2, "data": {"source": "digits", "classes": [*range(5)]}}
    tune = {"choose": "mimic", "trials": 1}
    pico("digits", tmp_path, model={"pretrain": pretrain}, tune=tune, train=train, tasks=tasks)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}

    def extract_on(device: int) -> None:  # as torchrun starts the processes
        os.environ.update(shared, LOCAL_RANK=str(device))
        execute("extract")

    both = [forked(lambda device=device: extract_on(device), tmp_path / f"said.{device}") for device in range(2)]
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    for stage in ("mimic", "mimic_vae", "tune"):
        execute(stage)
    env = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    command, env = [sys.executable, "-m", "recast_gen.pipelines.train"], env | {"OMP_DISPLAY_ENV": "VERBOSE"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)  # which starts the other process
    assert done.returncode == 0, done.stderr
    assert "GOMP_SPINCOUNT = '0'" in done.stderr  # by default libgomp's threads spin while they wait
    assert "MEMBER: 2/2" in done.stderr and done.stdout.count("high, coefficients, seed 42: start") == 1
    train, extract = (Path("weights_store/digits") / stage for stage in ("train", "extract"))
    assert len((extract / "epochs.csv").read_text().splitlines()) == 3 and not (extract / ".unfinished").exists()
    assert len((train / "runs.csv").read_text().splitlines()) == 3
    assert sorted(path.name for path in train.iterdir() if path.name.startswith(".")) == []
    count = len(data.load(Data(**images), GREY, 0).validation)
    right = [float(row["validation"]) * count for row in csv.DictReader((train / "runs.csv").open())]
    assert count % 2 and right == pytest.approx(list(map(round, right)), abs=1e-4)  # no image counts twice
    bank = rg.load_bank("weights_store/digits/tune/bank.zarr")
    assert rg.generate(bank, train / "tasks" / "high.safetensors")["head.weight"].shape == (4, 16)


def test_training_of_a_backbone_that_was_killed_goes_on_to_the_same_weights(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pretrain = {"epochs": 40, "data": {"source": "digits", "classes": [*range(5)], "test": 0.7}}
    recipe, extract = pico("digits", tmp_path, model={"pretrain": pretrain}), Path("weights_store/digits/extract")
    whole = execute("extract", recipe)
    assert capsys.readouterr().out.count("  epoch ") == 4
    shutil.rmtree(extract)
    stage = forked(lambda: execute("extract", recipe), log := tmp_path / "log")
    while "epoch 20/40" not in (log.read_text() if log.exists() else ""):
        assert stage.is_alive()
        time.sleep(0.01)
    stage.kill()
    stage.join()
    assert not (extract / "extract.zarr").exists()
    assert execute("extract", recipe) == whole
    assert capsys.readouterr().out.count("  epoch ") < 4  # epoch 20 is said before it is kept
    assert not (extract / ".unfinished").exists()


def test_a_stage_whose_input_is_missing_says_what_to_run_and_writes_nothing(tmp_path):
    pico("digits", tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "recast_gen.pipelines.mimic_vae"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "python -m recast_gen.pipelines.extract pipelines/digits.yaml" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "weights_store").exists()


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        ({"groups": [[0, 2], [3, 1]]}, "groups [[0, 2], [3, 1]]"),
        ({"groups": None, "group_size": 2}, "groups of 2 layers"),
        ({"groups": 2, "group_by": "similarity"}, "2 groups by similarity"),
        ({"groups": None}, "1 groups"),
    ],
)
def test_a_study_chooses_the_recipes_own_bank_however_it_is_cut(fitted, cut, said):
    measured = {"objectives": ["disagreement", "stored_share"], "constraints": {}}  # which the own bank has not
    execute("mimic", pico("digits", fitted, mimic=cut))
    for tune in ({"per_family": True}, measured, {}):
        recipe = pico("digits", fitted, mimic=cut, tune={"choose": "mimic"} | tune)
        metrics = execute("tune", recipe)
        plan = load(recipe).tune
        trials = Folder(recipe, "report").read_csv("tune", "trials.csv")
        assert "<svg" in pareto("trials", trials, plan.objectives, plan.constraints)
        assert metrics["trials"] == 4 + (said != "1 groups")  # which a study cuts like that, and so tries
    assert metrics["reason"].startswith(f"mimic with {said} of at most ")
    assert (str(metrics["best"]["groups"]) in ("1", "2")) == (said == "1 groups")
    assert metrics["hash"] == rg.load_bank("weights_store/digits/mimic/bank.zarr").hash


def test_a_killed_study_resumes_with_only_the_missing_trials(fitted, capsys):
    few, all_ = {"trials": 2, "choose": "mimic"}, {"trials": 5, "choose": "mimic"}
    execute("tune", pico("digits", fitted, tune=few))
    journal = Path("weights_store/digits/tune/study.journal")
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 4, "torn')  # as kill -9 would leave it
    capsys.readouterr()
    execute("tune", pico("digits", fitted, tune=all_))
    assert capsys.readouterr().out.count("trial ") == 3


def test_an_unreachable_error_limit_names_the_least_error(fitted):
    recipe = pico("digits", fitted, tune={"constraints": {"relative_error": 0.0}})
    with pytest.raises(RecastError, match="change tune.constraints.relative_error to it"):
        execute("tune", recipe)
    assert not Path("weights_store/digits/tune/bank.zarr").exists()


def test_orders_that_miss_a_class_are_refused_before_a_network_sees_an_image(whole, monkeypatch):
    monkeypatch.setattr("recast_gen.tasks.classes.Source.features", None)
    for wrong in ({"class_orders": [[1, 0, 2, 3, 4, 5, 6, 7, 8]]}, {"hierarchy": {9: "odd", 10: "even"}}):
        recipe = pico("digits", whole, incremental=wrong)
        with pytest.raises(RecastError, match="misses 9|has 10, no class"):
            execute("incremental", recipe)


def test_generate_writes_one_task_where_it_is_asked_to(whole):
    recipe, written = "pipelines/digits.yaml", whole / "weights_store/digits/generate"
    shutil.rmtree(written)

    def by_hand(*words) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "recast_gen.pipelines.generate", recipe, *words]
        return subprocess.run(command, capture_output=True, text=True)

    assert by_hand("--task", "high", "--out", "mine.safetensors").returncode == 0
    assert not written.exists()
    for words, says in [(["--task", "hihg", "--out", "a"], "Did you mean 'high'?"), (["--task", "high"], "--out")]:
        done = by_hand(*words)
        assert done.returncode and says in done.stderr and "Traceback" not in done.stderr
    execute("generate", recipe)
    assert filecmp.cmp("mine.safetensors", "weights_store/digits/generate/weights/high.safetensors", shallow=False)


@pytest.mark.parametrize("adapter", ["melo", "adaptformer"])
def test_a_recipe_with_an_adapter_runs_and_says_what_no_plain_weights_hold(adapter, whole, capsys):
    recipe = pico("digits", whole, train={"adapter": adapter, "coefficients": False, "epochs": 1})
    for stage in ("train", "generate", "report"):
        execute(stage, recipe)
    weights = whole / "weights_store" / "digits" / "generate" / "weights"
    made = sorted(path.stem for path in weights.iterdir())
    said = "high: The task's adapter 'adaptformer' adds layers" in capsys.readouterr().out
    assert (made, said) == ((["high", "negative"], False) if adapter == "melo" else ([], True))
    page = (weights.parents[1] / "report" / "report.html").read_text()
    assert f">{adapter}</td>" in page and "adapter of a task" in page and "coefficients of a task" not in page


def test_a_recipe_can_ask_for_tokens_and_the_vaes_warnings_are_in_the_metrics(fitted):
    recipe = pico("digits", fitted, mimic_vae={"groups": 4, "epochs": 2, "tokens": "neuron"})
    metrics = execute("mimic_vae", recipe)
    folder = fitted / "weights_store" / "digits" / "mimic_vae"
    assert len(metrics["warnings"]) == 16 and "nothing to learn" in metrics["warnings"][0]
    assert rg.generate(folder / "tokens" / "tokens.safetensors", depth=6).keys() >= {"blocks.5.mlp.fc1.weight"}
    assert metrics["tokens"]["blocks.*.mlp.fc1 neuron"]["relative_error"] < 0.2
    assert (folder / "tokens" / "epochs.csv").exists() and not (folder / "training").exists()
