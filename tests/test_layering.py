"""Imports point only downwards, each heavy library has one importer, and DVC knows what stages import."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import recast_gen
from recast_gen.pipelines import STAGES

ROOT = Path(recast_gen.__file__).parent
ORDER = (
    "errors", "tables", "recipe.fields", "recipe.images", "recipe.training", "recipe.backbone", "recipe.fits",
    "recipe.study", "recipe.reading",
    "parts", "grouping", "modes", "weights", "tensors", "files", "templates", "layouts", "folding",
    "store", "checkpoints", "bank", "taskfile", "quiet",
    "mimicry.factorization", "mimicry.closed_form", "mimicry.direct", "mimicry.resumable", "mimicry.ppca",
    "mimicry.layer_vae", "mimicry.grouped_lbfgs", "mimicry.vae_training", "mimicry.vae", "mimicry.measures",
    "mimicry.printed",
    "mimicry.similarity", "mimicry.moments", "mimicry.optimum", "mimicry.compression", "mimicry.fit",
    "extension", "norms", "tokens.cutting", "tokens.bank", "tokens.model", "tokens.fit",
    "sources", "resolution", "parametrizations", "reparam", "learning_rates",
    "adapters.part", "adapters.piggyback", "adapters.clr", "adapters.melo", "adapters.adaptformer", "adapter",
    "generation", "sampling", "switching", "mixed", "library", "card", "export", "api", "comparison",
    "tasks.readers.raw", "tasks.readers.arrays", "tasks.readers.files", "tasks.readers.vision", "tasks.data",
    "tasks.costs", "tasks.classifier", "tasks.module", "tasks.features", "tasks.analytic", "tasks.methods",
    "tasks.unfinished", "tasks.results", "tasks.runs", "tasks.sequence",
    "tuning.space", "tuning.fits", "tuning.objectives", "tuning.choice", "tuning.plan", "tuning.samplers",
    "tuning.storage", "tuning.trials", "tuning.workers", "tuning.study", "report", "study_pictures", "pipelines", "cli",
)  # fmt: skip
ONLY_IMPORTERS = {
    "zarr": {"store"}, "timm": {"sources", "tasks.data"},
    "lightning": {"tasks.module", "tasks.classifier", "mimicry.resumable"},
    "optuna": {"tuning.samplers", "tuning.storage", "tuning.trials", "tuning.study"},
        "matplotlib": {"report", "study_pictures"}, "typer": {"cli"}, "onnxruntime": {"export"},
    "pydantic": {name for name in ORDER if name.startswith("recipe.")},
}  # fmt: skip
PACKAGES = {"__init__", "adapters", "mimicry", "recipe", "tasks", "tasks.readers", "tokens", "tuning", "pipelines"}
SHARED_STAGES = {"pipelines.stage", "pipelines.mimic"}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def imports(module: str) -> set[str]:
    """Every module that a module imports, at any level: absolute dotted names, those of the package without its own."""
    path = MODULES[module]
    package = ["recast_gen", *path.relative_to(ROOT).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *filter(None, [node.module])])
            inner = {f"{base}.{alias.name}" for alias in node.names}
            submodules = {name for name in inner if name.removeprefix("recast_gen.") in MODULES}
            found |= submodules or {base}
    return {name.removeprefix("recast_gen.") for name in found}


def allowed(module: str) -> set[str]:
    """Every module of the package that a module may import."""
    if module in PACKAGES:
        return set()  # a package's own file imports nothing
    stages = {name for name in MODULES if name.startswith("pipelines")}
    if module in stages:
        return set(ORDER[: ORDER.index("pipelines")]) | SHARED_STAGES - {module}
    below = ORDER[: ORDER.index(module)]
    return set(below) | (stages if "pipelines" in below else set())


def test_every_module_has_a_rank():
    assert {name for name in MODULES if not name.startswith("pipelines.")} - PACKAGES == set(ORDER) - {"pipelines"}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_only_to_a_lower_rank(module):
    inside = {name for name in imports(module) if name in MODULES or name == "recast_gen"}
    assert not inside - allowed(module)


@pytest.mark.parametrize("library", ONLY_IMPORTERS)
def test_a_heavy_library_has_only_its_own_importers(library):
    importers = {module for module in MODULES if library in {name.partition(".")[0] for name in imports(module)}}
    assert importers <= ONLY_IMPORTERS[library]


def test_the_only_importers_are_still_there():
    assert {name for names in ONLY_IMPORTERS.values() for name in names} <= MODULES.keys()


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_knows_every_module_that_a_stage_imports_and_no_other(stage):
    found, left = set(), {f"pipelines.{stage}"}
    while left:
        found |= left
        left = {name for module in left for name in imports(module) if name in MODULES} - found
    files = {MODULES[name] for name in found - PACKAGES}
    stages = YAML(typ="safe").load(ROOT.parent / "dvc.yaml")["stages"]
    known = [ROOT.parent / name for name in stages[stage]["deps"] if name.startswith("recast_gen")]
    assert all(any(path.is_relative_to(one) for one in known) for path in files)
    assert all(any(path.is_relative_to(one) for path in files) for one in known)


def test_importing_the_package_imports_neither_torch_nor_numpy():
    script = "import json, sys, recast_gen; dir(recast_gen); print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy"} & set(json.loads(done.stdout))


def test_every_public_name_can_be_imported_and_an_unknown_one_is_an_attribute_error():
    assert all(getattr(recast_gen, name) is not None for name in recast_gen.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        recast_gen.no_such_name  # noqa: B018
