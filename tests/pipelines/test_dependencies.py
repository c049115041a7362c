"""Each stage in dvc.yaml names every module of ours that it runs, so that a change of any reruns it."""

import ast
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from recast_gen.pipelines import STAGES

ROOT = Path(__file__).parents[2]


def imported(path: Path) -> set[Path]:
    """The files of ours that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            target = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            found |= {target.with_suffix(".py"), *(target / f"{name.name}.py" for name in node.names)}
    return {path for path in found if path.is_file()}


def closure(stage: str) -> set[str]:
    left, seen = [ROOT / "recast_gen" / "pipelines" / name for name in (f"{stage}.py", "stage.py")], set()
    while left:
        seen.add(path := left.pop())
        left += imported(path) - seen
    return {str(path.relative_to(ROOT)) for path in seen}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_all_code_that_it_runs(stage):
    listed = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"][stage]["deps"]
    listed = {path for path in listed if path.startswith("recast_gen/")}
    missing = {path for path in closure(stage) if not any(path.startswith(dep) for dep in listed)}
    needless = {dep for dep in listed if not any(path.startswith(dep) for path in closure(stage))}
    assert not missing and not needless
