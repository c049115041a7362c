"""Folders where stages have run on the pico digits recipe, made once: tests that go on from there take a copy."""

import shutil
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from recast_gen.pipelines import STAGES
from recast_gen.pipelines.stage import execute

from .pico import pico

BEFORE_THE_STUDY = ("extract", "mimic", "mimic_vae")


def _ran(folder: Path, stages: tuple[str, ...]) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in stages:
            execute(stage, pico("digits", folder))
    return folder


@pytest.fixture(scope="session")
def first_stages(tmp_path_factory) -> Path:
    """A folder, not to be written to, where all stages before the study have run."""
    return _ran(tmp_path_factory.mktemp("fitted"), BEFORE_THE_STUDY)


@pytest.fixture(scope="session")
def all_stages(tmp_path_factory, first_stages) -> Path:
    """A folder, not to be written to, where all stages have run."""
    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(first_stages, folder, dirs_exist_ok=True)
    return _ran(folder, STAGES[len(BEFORE_THE_STUDY) :])


@pytest.fixture
def fitted(first_stages, tmp_path, monkeypatch) -> Path:
    """A copy, and the working directory, of a folder where all stages before the study have run."""
    shutil.copytree(first_stages, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def whole(all_stages, tmp_path, monkeypatch) -> Path:
    """A copy, and the working directory, of a folder where all stages have run."""
    shutil.copytree(all_stages, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sketched(monkeypatch) -> None:
    """The report's pictures are made and not rendered, which takes most of its time."""
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **how: file.write('<svg viewBox="0 0 1 1"></svg>'))
