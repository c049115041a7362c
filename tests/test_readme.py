"""README says what is so: its program runs, its table is what was measured, its commands and links exist."""

import re
from pathlib import Path

import pytest
import typer

from benchmarks.adaptation import runs, view
from recast_gen.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def test_the_program_runs_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (program,) = blocks("python")
    names: dict = {}
    exec(program, names)
    own = names["model"].state_dict()["head.weight"].numpy()
    assert (names["weights"]["head.weight"] == own).all() and len(own) == 102
    assert sum(parameter.numel() for parameter in names["rg"].coefficients(names["model"])) == 48


def test_the_table_is_what_was_measured(capsys):
    view.compared(runs.RESULTS.rows().values())
    assert capsys.readouterr().out in README


def test_it_is_two_screens():
    assert len(README.split()) <= 900


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)", README))))
def test_a_link_leads_somewhere(link):
    assert link.startswith("https://") or (ROOT / link).exists()


def test_the_commands_exist():
    known = typer.main.get_command(app).commands
    used = re.findall(r"^recast (\w+)", "".join(blocks("bash")), re.M)
    assert used and set(used) <= set(known)


def test_ci_runs_the_very_commands():
    ci = (ROOT / ".ci/run").read_text().replace("pip install -q", "pip install")
    main, tests = (block.strip() for block in blocks("bash")[:2])
    for command in (main, tests):
        for step in command.split(" && ")[2:]:
            assert step in ci
