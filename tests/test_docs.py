"""The documentation says what the package does: its tutorial runs, and its tables miss no name."""

import re
import runpy
import sys
import typing
from pathlib import Path

import pytest

import recast_gen as rg
from recast_gen.recipe.fields import Section
from recast_gen.recipe.reading import Recipe

DOCS = Path(__file__).parent.parent / "docs"
sys.path.append(str(DOCS / "hooks"))
import commands  # noqa: E402
import notebook  # noqa: E402
import recipe_table  # noqa: E402
import result_tables  # noqa: E402


def sections(section: type[Section]) -> set[type[Section]]:
    """A section of a recipe and all below it."""
    found, left = {section}, [field.annotation for field in section.model_fields.values()]
    while left:
        annotation = left.pop()
        left += typing.get_args(annotation)
        if isinstance(annotation, type) and issubclass(annotation, Section) and annotation not in found:
            found |= sections(annotation)
    return found


def test_the_tutorial_runs(capsys):
    runpy.run_path(str(DOCS / "tutorial.py"), run_name="__main__")
    printed = capsys.readouterr().out
    right = [float(line.partition("%")[0]) for line in printed.splitlines() if "images are right" in line]
    assert min(right) > 50  # of ten classes
    assert float(printed.rpartition("logits: ")[2]) < 1e-4


def test_a_page_of_cells_shows_text_code_and_what_it_printed(tmp_path, monkeypatch):
    monkeypatch.setattr(notebook, "FOLDER", tmp_path)
    (tmp_path / "page.py").write_text("# %% [markdown]\n# # Two\n#\n# cells\n\n# %%\nx = 2\n\n# %%\nprint(x + x)\n")
    assert notebook.executed("page.py").split("\n") == [
        "# Two", "", "cells", "", "", "```python", "x = 2", "```", "", "```python", "print(x + x)", "```", "",
        "```text", "4", "```", "",
    ]  # fmt: skip


@pytest.mark.parametrize("section", sorted(sections(Recipe), key=lambda section: section.__name__))
def test_every_key_of_a_recipe_has_a_meaning_and_a_table(section):
    assert recipe_table.meanings(section).keys() == section.model_fields.keys()
    place = f"{section.__module__.removeprefix('recast_gen.recipe.')}.{section.__name__}"
    assert f"{{{{ recipe {place} }}}}" in (DOCS / "recipes.md").read_text()
    table = recipe_table.markdown(place)
    assert all(f"| `{key}` |" in table for key in section.model_fields)


def test_the_reference_has_every_public_name():
    text = "".join(path.read_text() for path in (DOCS / "reference").glob("*.md"))
    shown = set(re.findall(r"^::: [\w.]+\.(\w+)$", text, re.M))
    assert set(rg.__all__) <= shown


def test_the_reference_has_every_command():
    assert "## recast inspect\n" in (page := commands.markdown()) and "| `SOURCE` | required |" in page


def test_every_table_of_results_is_made_from_what_was_measured():
    asked = re.findall(r"^\{\{ (printed|results) (.+) \}\}$", (DOCS / "results.md").read_text(), re.M)
    assert asked
    for kind, words in asked:
        made = {"printed": result_tables.printed, "results": result_tables.file}[kind](*words.split())
        assert made.startswith("Not measured yet") or len(made.strip().splitlines()) > 2, words
