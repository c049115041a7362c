"""README says what is so: its program runs, its table is what was measured, its commands and links exist."""

import re
from pathlib import Path

import pytest
import timm
import typer
from PIL import Image

import recast_gen as rg
from benchmarks.adaptation import runs, view
from recast_gen.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


def test_the_program_runs_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program, _ = blocks("python")
    names: dict = {}
    exec(program, names)
    own = names["model"].state_dict()["head.weight"].numpy()
    assert (names["weights"]["head.weight"] == own).all() and len(own) == 102
    assert sum(parameter.numel() for parameter in names["rg"].coefficients(names["model"])) == 48


def test_two_tasks_are_switched_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kwargs = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=2, **kwargs).eval()
    bank = rg.mimic(model, families=["blocks.*.attn.qkv"], groups=1, timm_kwargs=kwargs)
    bank.save("flowers.bank.zarr")
    rg.attach(model, bank)
    for name, classes in (("flowers", ["rose", "tulip"]), ("birds", ["jay", "owl"])):
        rg.save_task(f"{name}.safetensors", model, bank, head="head", classes=classes)
    Image.new("RGB", (20, 16)).save("rose.jpg")
    names: dict = {}
    exec(blocks("python")[1], names)
    assert set(names["likely"]) == {"rose", "tulip"} and sum(names["likely"].values()) == pytest.approx(1)
    assert names["lib"].current == "birds" and names["lib"].names == ["birds", "flowers"]


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
