"""Imports point only downwards, floor by floor, and each heavy library has its own importers."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import recast_gen

ROOT = Path(recast_gen.__file__).parent
FLOORS = {
    "__main__": 8, "cli": 7, "pipelines": 6, "tuning": 5, "tasks": 4, "api": 4, "peft": 4, "mimicry": 3, "model": 3,
    "bank": 2, "weights": 1, "recipe": 1, "errors": 0, "console": 0,
}  # fmt: skip
IMPORTERS = {
    "zarr": {"weights"}, "timm": {"weights", "tasks"}, "lightning": {"tasks", "mimicry"}, "optuna": {"tuning"},
    "matplotlib": {"pipelines"}, "typer": {"cli"}, "peft": {"peft"}, "onnxruntime": {"model"}, "pydantic": {"recipe"},
}  # fmt: skip


def imports(path: Path) -> set[tuple[str, ...]]:
    """Every module that a file imports, at any level: the parts of its dotted name."""
    package, found = ("recast_gen", *path.relative_to(ROOT).parent.parts), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = (*start, *filter(None, (node.module or "").split(".")))
            found |= {(*base, alias.name) for alias in node.names} if base == ("recast_gen",) else {base}
    return found


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


FILES = sorted(path for path in ROOT.rglob("*.py") if room(path) != "__init__")


def test_there_are_fourteen_rooms_and_every_file_is_in_one():
    assert {room(path) for path in FILES} == FLOORS.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_only_down(path):
    rooms = {parts[1] for parts in imports(path) if parts[0] == "recast_gen"} - {room(path)}
    assert all(FLOORS[other] < FLOORS[room(path)] for other in rooms), rooms


@pytest.mark.parametrize("library", IMPORTERS)
def test_a_heavy_library_has_only_its_own_importers(library):
    importers = {room(path) for path in FILES if library in {parts[0] for parts in imports(path)}}
    assert importers == IMPORTERS[library]


def test_importing_the_package_imports_neither_torch_nor_numpy():
    script = "import json, sys, recast_gen; dir(recast_gen); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy"} & set(json.loads(done.stdout))


def test_every_public_name_can_be_imported_and_an_unknown_one_is_an_attribute_error():
    assert all(getattr(recast_gen, name) is not None for name in recast_gen.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        recast_gen.no_such_name  # noqa: B018


def test_type_checkers_know_every_public_name():
    tree = ast.parse((ROOT / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If)).body
    known = {alias.asname: node.module for node in block for alias in node.names}
    assert known == recast_gen._HOME and (ROOT / "py.typed").exists()
