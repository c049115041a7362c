"""A sequence of tasks: what is measured, that nothing is forgotten, that no order matters, that kill -9 does not."""

import csv
import json
import signal
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image
from ruamel.yaml import YAML
from sklearn.datasets import load_digits
from torch import nn

import recast_gen as rg
from recast_gen.errors import AttachError, DataError
from recast_gen.pipelines.stage import execute
from recast_gen.recipe.images import Data, Task
from recast_gen.recipe.training import Train
from recast_gen.tasks import data, methods
from recast_gen.tasks.analytic import ridge_start
from recast_gen.tasks.features import before_head
from recast_gen.tasks.learner import JUDGES, Learner
from recast_gen.tasks.methods import prepare, rates
from recast_gen.tasks.module import accuracy, fit
from recast_gen.tasks.probe import probes
from recast_gen.tasks.results import KINDS, protocol
from recast_gen.tasks.sequence import adapt
from recast_gen.weights.networks import rebuild

from ..process import forked

TASKS = [
    Task(name="high", data=Data(source="digits", classes=[5, 6, 7])),
    Task(name="negative", data=Data(source="digits", negative=True, classes=[0, 1, 2, 3])),
    Task(name="turned", data=Data(source="digits", rotate=90, classes=[1, 2])),
]
FAST = {"epochs": 1, "batch_size": 64, "lr": 0.05, "head_lr": 0.05, "seeds": [42]}
WHOLE = {"head_bits": 32, "coefficient_bits": 32}


def test_nothing_is_forgotten_and_no_order_changes_a_task_file(bank, tmp_path):
    lines = []
    settings = Train(**FAST, **WHOLE, orders=2)  # fewer bits may lose what `tolerance` allows
    found = adapt(bank, TASKS, settings, 0, tmp_path, "pico", tmp_path / "runs", lines.append)
    assert [(row["after"], row["of"]) for row in found.matrix] == [
        ("high", "high"), ("negative", "negative"), ("turned", "high"), ("turned", "negative"), ("turned", "turned"),
    ]  # fmt: skip
    summary = found.summary()
    assert summary["forgetting"] == summary["backward_transfer"] == 0 and summary["same_logits"]
    assert sum(row.get("same_logits", False) for row in found.matrix) == 3
    orders = [tuple(summary["order"]), *(tuple(order["order"]) for order in summary["other_orders"])]
    assert len(set(orders)) == 3 and all(order["same_task_files"] for order in summary["other_orders"])
    assert sum("task files the same" in line for line in lines) == 2
    for row in found.runs:
        assert row["head"] and row["bytes"] > 0 and (row["coefficients"] > 0) == (row["method"] == "coefficients")
        assert row["validation"] >= row["start"] > 0.5
    assert summary["tasks"]["high"]["coefficients"]["bytes"] == (tmp_path / "high.safetensors").stat().st_size


def test_tasks_in_few_bits_are_measured_as_their_files_hold_them(bank, tmp_path):
    settings = Train(**FAST, orders=1, head_bits="auto", coefficient_bits=8)
    found = adapt(bank, TASKS, settings, 0, tmp_path, "pico", tmp_path / "runs", lambda line: None)
    summary = found.summary()
    assert summary["same_logits"] and all(order["same_task_files"] for order in summary["other_orders"])
    for task in summary["tasks"].values():
        assert task["coefficients"]["bytes"] < task["linear_probe"]["bytes"]  # which stays as it is


def test_only_what_a_run_depends_on_makes_it_run_again(bank, tmp_path):
    def trained(*tasks: Task, **settings) -> list[str]:
        """The tasks and methods of this call that were not found done."""
        (out := tmp_path / "out").mkdir(exist_ok=True)
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.json")}
        adapt(bank, list(tasks), Train(**FAST | WHOLE | settings), 0, out, "pico", tmp_path / "runs", lambda line: None)
        fresh = [path for path in (tmp_path / "runs").rglob("*.json") if before.get(path) != path.stat().st_mtime_ns]
        return sorted(f"{path.parts[-3]} {path.stem}" for path in fresh if "costs" not in path.name)

    high, negative, turned = TASKS
    first = trained(high, negative)
    assert first == [f"{task} {run}" for task in ("high", "negative") for run in ("coefficients-42", "linear_probe")]
    assert trained(high, negative) == []
    assert trained(high, negative, turned) == ["turned coefficients-42", "turned linear_probe"]
    assert trained(turned, high, workers=1) == []  # another order, and how images are read
    assert trained(high, turned, seeds=[42, 7]) == ["high coefficients-7", "turned coefficients-7"]
    assert trained(high, seeds=[7, 42], epochs=2) == [
        "high coefficients-42", "high coefficients-7", "high linear_probe",
    ]  # fmt: skip
    assert trained(high, negative)[:2] == ["high coefficients-42", "high linear_probe"]  # of what is not asked for
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"high", "negative"}  # nothing stays


def test_costs_count_what_runs_share_once(bank, tmp_path):
    settings = Train(**FAST | WHOLE | {"seeds": [0, 1]}, probe_lrs=[0.1, 0.01])
    found = adapt(bank, TASKS[:2], settings, 0, tmp_path, "pico", tmp_path / "runs", lambda line: None)
    assert [(row["task"], row["method"], row["seed"]) for row in found.costs] == [
        (task.name, method, seed) for task in TASKS[:2]
        for method, seed in [("features", ""), ("linear_probe", ""), ("coefficients", 0), ("coefficients", 1)]
    ]  # fmt: skip
    assert all(row["seconds"] > 0 and row["processor_seconds"] > 0 and row["peak_bytes"] >= 0 for row in found.costs)


def test_biases_count_as_coefficients_and_vectors_of_norms_as_norms(bank):
    tuned = rg.mimic(bank.base(), families=["blocks.*.bias"])
    _, trained = prepare("coefficients", tuned, bank.base(), 3, Train(), 0)
    names = [name for family in tuned.families.values() for name in family.names]
    assert len(trained["norms"]) == sum("norm" in name for name in names) > 0
    assert len(trained["coefficients"]) == sum("norm" not in name for name in names) > 0


def test_the_protocol_is_that_of_the_literature():
    rows = [("a", "a", 0.9), ("b", "a", 0.6), ("b", "b", 0.8), ("c", "a", 0.7), ("c", "b", 0.9), ("c", "c", 0.5)]
    found = protocol([{"after": after, "of": of, "test": test, "same_logits": True} for after, of, test in rows])
    assert found["average_accuracy"] == pytest.approx(0.7)
    assert found["backward_transfer"] == pytest.approx((-0.2 + 0.1) / 2) and found["forgetting"] == pytest.approx(0.2)


def learner(bank, tmp_path, **settings) -> Learner:
    splits = data.load(TASKS[0].data, bank.backbone["data_config"], 0)
    return Learner("high", lambda: splits, bank, bank.base(), Train(**FAST | settings), tmp_path)


def test_a_trial_is_judged_by_training_images_that_it_does_not_train_on_where_few_validate(bank, tmp_path, monkeypatch):
    kept = learner(bank, tmp_path)
    given = []
    monkeypatch.setattr(Learner, "_trained", lambda self, settings, seed, splits: (None, {}, given.append(splits)))

    def rows(images) -> list[bytes]:
        return [np.asarray(image).tobytes() for image, _ in images]

    kept.trial(48, 2, 0)
    count = len(kept.splits.validation)
    (splits,) = given
    train, judges = rows(splits.train), rows(splits.validation)
    assert len(train) == 48 and len(judges) == min(JUDGES, count + len(kept.splits.train) - 48) > count
    assert set(judges[:count]) == set(rows(kept._entry.validation)) and not set(train) & set(judges[count:])
    assert set(train) | set(judges[count:]) <= set(rows(kept._entry.train))


def test_a_probe_on_kept_features_is_the_probe_on_images(bank, tmp_path):
    kept = learner(bank, tmp_path)
    model, trained = prepare("linear_probe", bank, bank.base(), 3, kept.settings, seed=42)
    model.head.load_state_dict(kept.known.start.state_dict())
    found = fit(model, kept.splits, kept.settings, rates(model, trained, kept.settings), 42, bank.hash)
    (probe,) = kept.probes()
    assert probe.row["test"] == found.test and probe.row["best_epoch"] == found.best_epoch
    losses = [[row["validation_loss"] for row in history] for history in (probe.history, found.history)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    softened = nn.Sequential(model, nn.Softmax(-1))  # its head is not its last step
    assert before_head(softened, model.head, kept.splits, kept.settings) is None


def test_probes_of_all_rates_and_seeds_are_each_what_it_is_alone(bank, tmp_path):
    kept = learner(bank, tmp_path, clip=0.1, weight_decay=0.1, epochs=3, patience=1)
    heads, rates, seeds = [nn.Linear(16, 3) for _ in range(2)], [1e-3, 1.0], [0, 1]
    together = probes(heads, kept.known.seen, kept.settings, rates, seeds)
    for (rate, seed), found in together.items():
        ((_, alone),) = probes([heads[seed]], kept.known.seen, kept.settings, [rate], [seed]).items()
        assert found.best_epoch == alone.best_epoch and len(found.history) == len(alone.history)
        for name, tensor in found.state.items():
            assert torch.allclose(tensor, alone.state[name], atol=1e-5)


def test_a_head_starts_from_ridge_regression_unless_the_recipe_says_random(bank, tmp_path):
    still = {"lr": 1e-9, "head_lr": 1e-9}
    kept = learner(bank, tmp_path / "ridge", **still)
    random = learner(bank, tmp_path / "random", **still, head_start="random").run(42)
    solved = ridge_start(kept.known.seen)
    ridge = kept.run(42)
    for part in ("validation", "test"):
        assert ridge.row[part] == pytest.approx(accuracy(solved, getattr(kept.known.seen, part)), abs=0.02)
        assert ridge.row[part] > random.row[part]
    assert ridge.row["start"] == pytest.approx(ridge.row["validation"], abs=0.02)


def test_the_probe_takes_the_best_of_its_rates_on_validation(bank, tmp_path):
    def probe(folder: str, *rates: float) -> dict:
        return learner(bank, tmp_path / folder, epochs=2, probe_lrs=list(rates), head_start="random").probes()[0].row

    slow, fast, best = probe("slow", 1e-5), probe("fast", 0.3), probe("both", 1e-5, 0.3)
    assert slow["validation"] != fast["validation"] and set(KINDS) < best.keys()
    assert best | {"bytes": 0} == max(slow, fast, key=lambda row: row["validation"]) | {"bytes": 0}


@pytest.mark.parametrize("source", ["npz", "csv"])
def test_what_was_trained_on_other_images_is_not_taken_for_done(bank, tmp_path, source):
    found = load_digits()
    chosen = found.target < 3
    images, labels = (found.images[chosen][:150] * 15).astype(np.uint8), found.target[chosen][:150]
    task = Task(name="t", data=Data(source=source, path=str(tmp_path / f"t.{source}")))
    rows = "".join(f"{index}.png,{label}\n" for index, label in enumerate(labels))
    (tmp_path / "t.csv").write_text(f"path,label\n{rows}")

    def write(images) -> None:
        np.savez(tmp_path / "t.npz", x=images, y=labels)
        for index, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / f"{index}.png")

    def learn(images, runs, say=print) -> float:
        write(images)
        (out := tmp_path / f"out{runs.name}").mkdir(exist_ok=True)
        found = adapt(bank, [task], Train(**FAST, **WHOLE), 0, out, "pico", runs, say)
        return found.summary()["tasks"]["t"]["coefficients"]["test"]

    def stop(line):
        if "coefficients" in line:
            raise KeyboardInterrupt

    fresh = learn(images[::-1], tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        learn(images, tmp_path / "b", stop)
    assert learn(images[::-1], tmp_path / "b") == fresh


def test_an_adapter_that_does_not_fit_is_refused_before_anything_is_trained(bank, tmp_path):
    lines = []
    with pytest.raises(AttachError, match="'clr' finds nothing to act on"):
        adapt(bank, TASKS, Train(**FAST, adapter="clr"), 0, tmp_path, "pico", tmp_path / "runs", lines.append)
    assert not lines


def test_a_head_of_other_classes_is_refused_before_anything_is_trained(bank, tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(methods, "rebuild", lambda base, num_classes: rebuild(base, num_classes=min(num_classes, 3)))
    with pytest.raises(DataError, match=r"gives \(3,\) logits an image; the task has 4 classes"):
        adapt(bank, TASKS, Train(**FAST), 0, tmp_path, "pico", tmp_path / "runs", lines.append)
    assert not lines and not list(tmp_path.iterdir())


def outputs(folder: Path) -> dict[str, bytes]:
    """Every file of the stage that holds no times."""
    files = [path for path in folder.rglob("*") if path.is_file() and "costs" not in path.name]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_stage_that_was_killed_goes_on_to_the_same_files(bank, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    bank.save("weights_store/pico/tune/bank.zarr")
    tasks = [task.model_dump(exclude_defaults=True) for task in TASKS[:2]]
    Path("pipelines").mkdir()
    recipe = {"model": {"name": "vit_tiny_patch16_224"}, "tasks": tasks, "train": FAST | {"epochs": 4}}
    YAML().dump(recipe, Path("pipelines/pico.yaml"))
    execute("train", "pipelines/pico.yaml")
    folder, epochs = Path("weights_store/pico/train"), capsys.readouterr().out.count("  epoch ")
    whole = outputs(folder)
    Path("weights_store/pico/train").rename("whole")

    stage = forked(lambda: execute("train", "pipelines/pico.yaml"))
    while not list(folder.glob("runs/*/*/coefficients-42.json")) and stage.is_alive():
        time.sleep(0.01)
    time.sleep(Random().uniform(0, 0.3))  # anywhere: in a step, between two, while a checkpoint is written
    stage.kill()
    stage.join()
    assert stage.exitcode == -signal.SIGKILL and not (folder / "runs.csv").exists()
    execute("train", "pipelines/pico.yaml")
    assert outputs(folder) == whole
    assert capsys.readouterr().out.count("  epoch ") < epochs
    assert not list(folder.rglob("*.ckpt")) and json.loads((folder / "metrics.json").read_text())["same_logits"]
    assert {row["task"] for row in csv.DictReader((folder / "splits.csv").open())} == {"high", "negative"}
