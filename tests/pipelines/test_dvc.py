"""What DVC makes of `dvc.yaml` in a fresh clone: what has run is up to date, and an edit touches its own stages alone.

Here the stages run in this process, and DVC is told of it: `.ci/run` has DVC run them all.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from contextlib import chdir
from pathlib import Path
from unittest import mock

import pytest
from dvc import cli
from dvc.repo import Repo
from ruamel.yaml import YAML

from recast_gen.pipelines import STAGES
from recast_gen.pipelines.sections import read_by
from recast_gen.pipelines.stage import execute
from recast_gen.recipe.reading import load
from recast_gen.tasks.code import closure

from ..process import recast, run
from .pico import pico

ROOT = Path(__file__).parents[2]
OWN = "sub/my own"
PATH = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def sh(folder: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | PATH)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dvc(folder: Path, *words: str) -> str:
    """A command of DVC in this process; the stages that it runs are processes."""
    with mock.patch.dict(os.environ, PATH):
        done = run(lambda: sys.exit(cli.main(list(words))), "dvc", *words, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory, all_stages) -> Path:
    """A clone with two recipes whose stages have run."""
    folder = shutil.copytree(all_stages, tmp_path_factory.mktemp("clone") / "repo")
    shutil.copytree(ROOT / "recast_gen", folder / "recast_gen", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore", ".dvc/plots/runs.json",
                 "weights_store/.gitignore"):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    bare = YAML(typ="safe").load(folder / "pipelines" / "digits.yaml")
    (folder / "pipelines" / "sub").mkdir()
    bare["model"].pop("pretrain")
    kept = {"model": bare["model"], "tasks": bare["tasks"][:1], "train": {"epochs": 1, "seeds": [1]}}
    YAML().dump(kept, folder / "pipelines" / "sub" / "my own.yaml")
    (folder / "params.yaml").write_text(f"recipes: [digits, {OWN}]\n")
    sh(folder, "git", "init", "-q")
    dvc(folder, "repro", "sections")
    with chdir(folder):
        for stage in STAGES:
            execute(stage, f"pipelines/{OWN}.yaml")
    dvc(folder, "commit", "-f")  # fails unless all outputs of `dvc.yaml` are there
    return folder


def stale(folder: Path) -> set[str]:
    with Repo(folder) as repo:
        return {name.rpartition(":")[2].partition("@")[0] for name in repo.status()}


def test_a_second_repro_does_nothing_and_the_journal_is_nobodys_dependency(clone):
    assert "up to date" in dvc(clone, "repro")
    assert sh(clone, "git", "status", "--short", "weights_store").split() == ["??", "weights_store/"]
    lock = YAML(typ="safe").load(clone / "dvc.lock")
    assert {name.partition("@")[0] for name in lock["stages"]} == {"code", "sections", *STAGES}
    assert not any("journal" in dep["path"] for stage in lock["stages"].values() for dep in stage["deps"])


def test_an_edited_section_makes_only_its_own_stages_stale(clone):
    recipe, sections = clone / "pipelines" / "digits.yaml", clone / "weights_store" / "digits" / ".sections"
    before = recipe.read_text()
    kept = {stage: json.loads((sections / f"{stage}.json").read_text()) for stage in STAGES}
    try:
        for section, change, expected in (
            ("model", {"kwargs": {"depth": 3}}, {"extract", "report"}),
            ("mimic", {"gauge": "identity"}, {"mimic", "tune"}),
            ("mimic_vae", {"beta": 0.5}, {"mimic_vae", "tune"}),
            ("tune", {"constraints": {"relative_error": 0.02}}, {"tune", "report"}),
            ("tune", {"workers": 2}, set()),
            ("train", {"lr": 0.01}, {"train"}),
            ("train", {"processes": 2}, set()),
            ("train", {"resolution": 2}, {"tune", "train"}),
        ):
            found = read_by(load(pico("digits", clone, **{section: change})))
            assert {stage for stage in STAGES if found[stage] != kept[stage]} == expected
        assert stale(clone) == {"sections"}
    finally:
        recipe.write_text(before)
    assert stale(clone) == set()


def test_a_mapping_in_another_order_is_an_edit(clone):
    """Of `classes` it is the order in which they are learnt; DVC's parameters are the same to it."""
    recipe, written = clone / "pipelines" / "digits.yaml", clone / "weights_store" / "digits" / ".sections/extract.json"
    before, kept = recipe.read_text(), written.read_text()
    content = YAML(typ="safe").load(before)
    content["model"]["kwargs"] = dict(reversed(content["model"]["kwargs"].items()))
    try:
        YAML().dump(content, recipe)
        assert stale(clone) == {"sections"}
        dvc(clone, "repro", "sections@digits")
        assert json.loads(written.read_text()) == json.loads(kept) and "extract" in stale(clone)
    finally:
        recipe.write_text(before)
        dvc(clone, "repro", "sections@digits")
    assert stale(clone) == set()


def test_git_and_dvc_bring_a_study_back_without_running_it_again(clone, capsys):
    recipe, git = clone / "pipelines" / "digits.yaml", ("git", "-c", "user.name=a", "-c", "user.email=a@b")
    sh(clone, "git", "add", "pipelines", "dvc.lock", "dvc.yaml", "params.yaml")
    sh(clone, *git, "commit", "-qm", "four trials")
    pico("digits", clone, tune={"trials": 5})
    dvc(clone, "repro", "sections@digits")
    with chdir(clone):
        execute("tune")
    assert capsys.readouterr().out.count("trial ") == 1
    dvc(clone, "commit", "-f", "tune@digits")
    assert "report" in stale(clone)
    sh(clone, "git", "checkout", "-q", str(recipe), "dvc.lock")
    dvc(clone, "checkout")
    assert stale(clone) == set()


@pytest.mark.parametrize(
    ("file", "stages"),
    [
        ("model/export.py", set()),
        ("pipelines/pictures.py", {"report"}),
        ("mimicry/closed_form.py", {"mimic", "mimic_vae", "tune"}),
    ],
)
def test_a_file_belongs_to_the_code_of_the_stages_that_run_it(file, stages):
    assert {stage for stage in STAGES if ROOT / "recast_gen" / file in closure(f"pipelines.{stage}")} == stages


def test_an_edited_file_reruns_the_stages_that_run_it(clone):
    edited = clone / "recast_gen" / "pipelines" / "pictures.py"
    before = edited.read_text()
    try:
        edited.write_text(before + "\n# edited\n")
        assert stale(clone) == {"code"}
        dvc(clone, "repro", "code")
        assert stale(clone) == {"report"}
    finally:
        edited.write_text(before)
        dvc(clone, "repro", "code")


def test_a_recipe_without_a_study_and_with_a_space_in_its_name_is_reproduced(clone):
    folder = clone / "weights_store" / OWN
    metrics = {stage: json.loads((folder / stage / "metrics.json").read_text()) for stage in STAGES}
    assert metrics["tune"]["left_out"] and metrics["mimic_vae"]["left_out"]
    assert metrics["train"]["bank"] == metrics["mimic"]["hash"]
    assert (folder / ".sections" / "train.json").exists()  # which DVC has written by a command like the others
    with Repo(clone) as repo:
        commands = {stage.name: shlex.split(stage.cmd) for stage in repo.index.stages if stage.name.endswith(OWN)}
    assert commands == {
        f"{stage}@{OWN}": ["python", "-m", f"recast_gen.pipelines.{stage}", f"pipelines/{OWN}.yaml"]
        for stage in ("sections", *STAGES)
    }


def test_metrics_and_plots_are_shown(clone):
    assert "weights_store/digits/train/metrics.json" in dvc(clone, "metrics", "show")
    dvc(clone, "plots", "show")
    drawn = (clone / "dvc_plots" / "index.html").read_text()
    assert "epochs.csv" in drawn and '"field": "run"' in drawn


def test_the_report_is_drawn_again_to_the_same_bytes_and_its_path_printed(clone):
    path = clone / "weights_store" / "digits" / "report" / "report.html"
    before = path.read_bytes()
    assert recast("report", cwd=clone).stdout.splitlines()[-1] == str(path.relative_to(clone))
    assert path.read_bytes() == before
