"""`dvc repro` in a fresh clone: runs everything once, then only what an edit touches."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from recast_gen.pipelines import STAGES
from recast_gen.pipelines.sections import read_by
from recast_gen.recipe.reading import load
from recast_gen.tasks.code import closure

from ..process import recast
from .pico import pico

ROOT = Path(__file__).parents[2]


def sh(folder: Path, *command: str) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | {"PATH": path})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory, all_stages) -> Path:
    """A clone with two recipes: of one, DVC is told that its stages have run, of the other it has run them."""
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
    (folder / "params.yaml").write_text("recipes: [digits, sub/my own]\n")
    sh(folder, "git", "init", "-q")
    sh(folder, "dvc", "repro", "sections")
    sh(folder, "dvc", "commit", "-f", *(f"{stage}@digits" for stage in STAGES))
    sh(folder, "dvc", "repro")
    return folder


def stale(folder: Path) -> set[str]:
    with Repo(folder) as repo:
        return {name.rpartition(":")[2].partition("@")[0] for name in repo.status()}


def test_a_second_repro_does_nothing_and_the_journal_is_nobodys_dependency(clone):
    assert "up to date" in sh(clone, "dvc", "repro")
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
            ("train", {"resolution": 2}, {"tune", "train"}),
        ):
            found = read_by(load(pico("digits", clone, **{section: change})))
            assert {stage for stage in STAGES if found[stage] != kept[stage]} == expected
        assert stale(clone) == {"sections"}
    finally:
        recipe.write_text(before)
    assert stale(clone) == set()


def test_git_and_dvc_bring_a_study_back_without_running_it_again(clone):
    recipe, git = clone / "pipelines" / "digits.yaml", ("git", "-c", "user.name=a", "-c", "user.email=a@b")
    sh(clone, "git", "add", "pipelines", "dvc.lock", "dvc.yaml", "params.yaml")
    sh(clone, *git, "commit", "-qm", "four trials")
    pico("digits", clone, tune={"trials": 5})
    assert sh(clone, "dvc", "repro", "tune@digits").count("trial ") == 1
    sh(clone, "git", "checkout", "-q", str(recipe), "dvc.lock")
    sh(clone, "dvc", "checkout")
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
        sh(clone, "dvc", "repro", "code")
        assert stale(clone) == {"report"}
    finally:
        edited.write_text(before)
        sh(clone, "dvc", "repro", "code")


def test_a_recipe_without_a_study_and_with_a_space_in_its_name_is_reproduced(clone):
    folder = clone / "weights_store" / "sub" / "my own"
    metrics = {stage: json.loads((folder / stage / "metrics.json").read_text()) for stage in STAGES}
    assert metrics["tune"]["left_out"] and metrics["mimic_vae"]["left_out"]
    assert metrics["train"]["bank"] == metrics["mimic"]["hash"]


def test_metrics_and_plots_are_shown(clone):
    assert "weights_store/digits/train/metrics.json" in sh(clone, "dvc", "metrics", "show")
    sh(clone, "dvc", "plots", "show")
    drawn = (clone / "dvc_plots" / "index.html").read_text()
    assert "epochs.csv" in drawn and '"field": "run"' in drawn


def test_the_report_is_drawn_again_to_the_same_bytes_and_its_path_printed(clone):
    path = clone / "weights_store" / "digits" / "report" / "report.html"
    before = path.read_bytes()
    assert recast("report", cwd=clone).stdout.splitlines()[-1] == str(path.relative_to(clone))
    assert path.read_bytes() == before
