"""What is published: the package alone, under one version."""

import re
import tomllib
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("builder", [SdistBuilder, WheelBuilder])
def test_a_distribution_holds_the_package_and_no_tests_benchmarks_or_recipes(builder):
    files = {file.distribution_path for file in builder(str(ROOT)).recurse_included_files()}
    package = {str(path.relative_to(ROOT)) for path in ROOT.glob("recast_gen/**/*") if path.suffix in (".py", ".typed")}
    assert package <= files and "recast_gen/py.typed" in package
    assert all(name.startswith("recast_gen/") or "/" not in name for name in files)


def test_the_changelog_and_the_citation_name_the_version_of_the_package():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert re.search(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)[1] == version
    assert re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)[1] == version


def test_every_dependency_says_why_it_is_there():
    text = (ROOT / "pyproject.toml").read_text()
    for line in re.findall(r'^(?: +|\w+ = \[)"(?!recast-gen)[^"\n]*[<>=].*$', text, re.M):
        assert "# " in line, line
