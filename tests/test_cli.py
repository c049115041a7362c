"""The `recast` command as a user types it."""

import io
import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.numpy import load_file
from typer.testing import CliRunner

import recast_gen as rg
from recast_gen.cli import COMMANDS as PANELS
from recast_gen.cli import EXPORTS, app, main
from recast_gen.console import show
from recast_gen.errors import StoreError, plainly
from recast_gen.tasks.adapt import Adapted
from recast_gen.weights.files import save_tensors
from recast_gen.weights.sources import read

from .conftest import PICO_VIT
from .process import recast

COMMANDS = [
    ["export", command.__name__] if command in EXPORTS else [command.__name__.replace("_", "-")]
    for command in [*(command for panel in PANELS.values() for command in panel), *EXPORTS]
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_shows_an_example_in_80_columns(words):
    done = CliRunner().invoke(app, [*words, "-h"], env={"COLUMNS": "80"}, prog_name="recast")
    assert done.exit_code == 0 and f"Example: recast {' '.join(words)} " in done.output
    assert max(map(len, done.output.splitlines())) <= 80


def test_the_module_is_the_command_and_knows_its_version():
    for command in (["recast"], [sys.executable, "-m", "recast_gen"]):
        said = subprocess.run([*command, "--version"], capture_output=True, text=True)
        assert said.stdout == f"recast_gen {version('recast-gen')}\n"
        wrong = subprocess.run([*command, "inspect", "no.pth"], capture_output=True, text=True)
        assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1) and "no.pth does not exist" in wrong.stderr


def test_debug_shows_where_an_error_comes_from(tmp_path):
    plain, traced = recast("inspect", "no.pth", cwd=tmp_path), recast("inspect", "no.pth", "--debug", cwd=tmp_path)
    assert plain.stderr.count("\n") == 1 and plain.stderr.strip("\n").partition("error: ")[2] in traced.stderr
    assert "Traceback" in traced.stderr and traced.returncode == 1


def test_a_missing_package_is_named_with_its_extra_for_a_clone_too(capsys):
    with pytest.raises(SystemExit) as found, plainly():
        raise ModuleNotFoundError("no", name="lightning.pytorch")
    said = "pip install 'recast-gen[train]', in a clone: pip install -e '.[train]'"
    assert str(found.value) == f"error: lightning.pytorch is not installed: {said}"


def test_inspect_prints_families_sizes_and_coefficients():
    done = recast("inspect", "vit_small_patch16_224", "--groups", 6)
    assert done.returncode == 0, done.stderr
    row = next(line.split() for line in done.stdout.splitlines() if line.startswith("blocks.*.attn.qkv.weight"))
    assert row[1:] == ["12", "1152x384", "5,308,416", "5,308,416", "24"]
    assert "22,050,664" in done.stdout.splitlines()[-1]


def test_inspect_prints_what_some_layers_of_uneven_families_have():
    done = recast("inspect", "resnet50", "--families", "layer{3,4}.*.conv2", "--groups", 3)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[1] for line in lines[1:3]] == ["6", "3"] and lines[3][0] == "chosen"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["inspect", "vit_smal_patch16_224"], "Did you mean 'vit_small_patch16_224'?"),
        (["inspect", "ViT_small_patch16_224"], "Did you mean 'vit_small_patch16_224'?"),
        (["inspect", "nothere"], "no file or folder is called so. All names: timm.list_models()."),
        (["check", "."], ". is a folder; expected a recipe"),
        (["inspect", "nowhere.pth"], "nowhere.pth does not exist"),
        (["inspect", "vit_small_patch16_224", "--by", "name"], "There are: index, shape"),
        (["run", "mimicc"], "Did you mean 'mimic'?"),
        (["run", "mimic", "nowhere.yaml"], "nowhere.yaml does not exist"),
        (["generate", "nowhere.zarr"], "nowhere.zarr does not exist"),
    ],
)
def test_a_mistake_is_one_plain_message(words, says, tmp_path):
    done = recast(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert says in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder of a network, a bank, a task, a list of images and the images."""
    folder = tmp_path_factory.mktemp("here")
    model = timm.create_model("vit_tiny_patch16_224", num_classes=2, **PICO_VIT)
    about = {"timm_model": "vit_tiny_patch16_224", "timm_kwargs": json.dumps(PICO_VIT | {"num_classes": 2})}
    save_tensors(folder / "net.safetensors", dict(read(model)), about)
    bank = rg.mimic(folder / "net.safetensors")
    bank.save(folder / "bank.zarr")
    rg.save_task(folder / "task.safetensors", rg.attach(model, bank), bank, "head", ["cat", "dog"])
    (folder / "step_001.safetensors").write_bytes((folder / "task.safetensors").read_bytes())
    for index, name in enumerate(("cat", "dog")):
        (folder / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9), (99 * index,) * 3).save(folder / "photos" / name / "0.png")
    (folder / "list.csv").write_text("path,label\nphotos/cat/0.png,cat\nphotos/dog/0.png,dog\n")
    return folder


@pytest.mark.parametrize(
    "words",
    [
        "adapt net.safetensors photos --out net.safetensors",
        "evaluate bank.zarr task.safetensors list.csv --csv list.csv",
        "project bank.zarr net.safetensors --out ./net.safetensors",
        "merge bank.zarr task.safetensors task.safetensors --out task.safetensors",
        "grow net.safetensors --width 2 --out net.safetensors",
        "generate bank.zarr task.safetensors --out task.safetensors",
        "export onnx bank.zarr task.safetensors --out task.safetensors",
        "export graph bank.zarr --out bank.zarr",
        "interpolate bank.zarr base --out . step_001.safetensors",
    ],
)
def test_no_command_writes_onto_what_it_reads(here, words):
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    done = recast(*words.split(), cwd=here)
    assert done.returncode == 1 and f"{words.split()[-1].removeprefix('./')} is read, and would be lost" in done.stderr
    assert before == {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    with pytest.raises(StoreError, match="would be lost"):
        rg.adapt(here / "net.safetensors", here / "photos", here / "net.safetensors")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("evaluate task.safetensors bank.zarr photos", "task.safetensors is a task file; expected a bank."),
        ("evaluate bank.zarr bank.zarr photos", "bank.zarr is a bank; expected a task file."),
        ("adapt task.safetensors photos --out a.safetensors", "task.safetensors is a task file; expected a network"),
        ("evaluate bank.zarr net.safetensors photos", "net.safetensors is a file of plain tensors; expected a task"),
        ("evaluate net.safetensors task.safetensors photos", "is a file of plain tensors; expected a bank."),
        ("evaluate photos task.safetensors photos", "photos is a folder without zarr.json; expected a bank."),
        ("init bank.zarr photos", "bank.zarr is a bank; expected a network"),
        ("adapt net.safetensor photos", "Did you mean 'net.safetensors'?"),
        ("adapt bank photos", "Did you mean 'bank.zarr'?"),
        ("evaluate bnk.zarr task.safetensors photos", "not exist; expected a bank. Did you mean 'bank.zarr'?"),
        ("evaluate bank.zarr tsk.safetensors photos", "expected a task file. Did you mean 'task.safetensors'?"),
        ("evaluate bank.zarr task.safetensors photo", "Did you mean 'photos'?"),
        ("evaluate bank.zarr task.safetensors photo/cat", "Did you mean 'photos'?"),
        ("evaluate bank.zarr task.safetensors lists.csv", "Did you mean 'list.csv'?"),
        ("predict bank.zarr task.safetensors photos/cat/1.png", "1.png: cannot be read (it does not exist."),
        ("tasks . --diff task tusk", "Did you mean 'task.safetensors'?"),
        ("adapt net.safetensors photos --out flowers", "flowers: tasks are found by their suffix"),
        ("adapt net.safetensors photos --out photos.safetensors/a.safetensors", "photos.safetensors is no folder"),
        ("merge bank.zarr task.safetensors task.safetensors --out m.pt", "m.pt: tasks are found by their suffix"),
    ],
)  # fmt: skip
def test_what_is_given_in_the_place_of_another_is_said_with_what_is_near(here, words, says):
    done = recast(*words.split(), cwd=here)
    assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr


def test_adapt_says_what_its_rows_do_not(monkeypatch, capsys):
    row = {"coefficients": 7, "norms": 0, "adapter": 0, "bytes": 99, "validation": 0.5, "test": 0.5, "start": 0.25}
    history = [{"run": f"task {method} 0", "epoch": 3, "validation": 0.75} for method in ("probe", "coefficients")]
    for epoch, said in ((3, "note: validation was 75.0 % before"), (0, "note: validation was 25.0 % before")):
        made = Adapted(Path("a"), ["x"], row | {"best_epoch": epoch}, row, [], history, [], bank=Path("b c"))
        monkeypatch.setattr("recast_gen.tasks.adapt.adapt", lambda *given, made=made, **how: made)
        app(["adapt", "net", "photos", *(["--bytes", "99"] if epoch else [])], standalone_mode=False)
        printed = capsys.readouterr().out
        assert ("best of at most 99 bytes" if epoch else "fewest") in printed
        assert "next: recast predict 'b c' task.safetensors IMAGE" in printed
        assert said in printed and ("no epoch was better" in printed) == (epoch == 0)


def test_what_is_printed_is_seen_at_once_through_a_pipe(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw))
    monkeypatch.setattr("sys.argv", ["recast", "--version"])
    monkeypatch.setattr("recast_gen.cli.app", lambda: print("seen"))
    main()
    assert raw.getvalue() == b"seen\n"


def test_generate_writes_the_backbone_of_a_bank(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=16, depth=4, num_heads=2)
    rg.mimic(model, groups=2).save(tmp_path / "bank.zarr")
    done = recast("generate", "bank.zarr", "--out", "made.safetensors", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert load_file(tmp_path / "made.safetensors").keys() == model.state_dict().keys()


def test_a_bank_is_packed_unpacked_and_generated_from_either_way(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=16, depth=4, num_heads=2)
    found = rg.mimic(model, groups=2).save(tmp_path / "bank.zarr")
    for words in (["pack", "bank.zarr", "bank.safetensors"], ["unpack", "bank.safetensors", "again.zarr"]):
        done = recast(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert found in done.stdout
    assert rg.load_bank(tmp_path / "again.zarr").hash == found
    for bank in ("bank.zarr", "bank.safetensors"):
        assert recast("generate", bank, "--out", f"{bank}.made", cwd=tmp_path).returncode == 0
    lost = recast("generate", "bank.zarr", "--out", "bank.zarr", cwd=tmp_path)
    assert lost.returncode == 1 and "would be lost" in lost.stderr
    assert (tmp_path / "bank.zarr.made").read_bytes() == (tmp_path / "bank.safetensors.made").read_bytes()


def test_a_bank_is_cut_and_rounded_and_never_onto_itself(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=8, embed_dim=16, depth=4, num_heads=2)
    kwargs = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2}
    bank = rg.mimic(model, gauge="identity", timm_kwargs=kwargs)
    bank.save(tmp_path / "bank.zarr")
    pixels = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "images.npz", x_train=pixels, y_train=np.arange(40) % 2)

    def run(*words) -> str:
        done = CliRunner().invoke(app, [str(tmp_path / word) if "." in word else word for word in words])
        return done.output if done.exception is None else str(done.exception)

    said = run("nest", "bank.zarr", "--templates", "2", "--out", "small.zarr")
    assert rg.load_bank(tmp_path / "small.zarr").hash == rg.nest(bank, 2).hash and rg.nest(bank, 2).hash in said
    run("quantise", "small.zarr", "--bits", "ternary", "--out", "few.safetensors")
    assert rg.load_bank(tmp_path / "few.safetensors").hash == rg.quantise(rg.nest(bank, 2), "ternary").hash
    run("quantise", "bank.zarr", "--images", "images.npz", "--count", "16", "--out", "four.zarr")
    assert rg.load_bank(tmp_path / "four.zarr").fit["calibrated"]
    assert "would be lost" in run("nest", "bank.zarr", "--templates", "2", "--out", "bank.zarr")
    assert "8 or 4 bits" in run("quantise", "bank.zarr", "--bits", "5", "--out", "five.zarr")
    assert rg.load_bank(tmp_path / "bank.zarr").hash == bank.hash and not (tmp_path / "five.zarr").exists()


@pytest.mark.parametrize("kind", ["bank.zarr", "bank.safetensors"])
def test_inspect_prints_how_good_a_bank_is(vit, tmp_path, kind):
    model = vit()
    model.register_buffer("codes", torch.ones(2, dtype=torch.uint8))
    bank = vit.bank(model, groups=2, sets=3, solver="direct", steps=20)
    bank.save(tmp_path / kind, packed=kind.endswith("safetensors"))
    done = recast("inspect", kind, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first, head, *rows, above, untouched = done.stdout.splitlines()
    assert bank.hash in first and head.split()[:6] == ["family", "group", "layers", "templates", "error", "bound"]
    for row, ((family, index), found) in zip(rows, bank.certificate.items()):
        gap, share = f"{found['gap']:.2g}", f"{found['stored_bytes'] / found['original_bytes']:.1%}"
        assert row.split()[:4] == [family, str(index), "2", "2"]
        assert row.split()[6:] == [gap, share, "12", "4"]  # of 3 sets of numbers, their mean acts
    assert len(rows) == len(bank.groups) + 1 and rows[-1].startswith("all")
    assert above.startswith("6 of 6 groups are above the least error") and untouched.endswith("codes (uint8)")


def test_inspect_prints_what_a_task_holds_without_its_bank(vit, tmp_path):
    model, bank = vit(), vit.bank(vit(), groups=2)
    rg.attach(model, bank)
    rg.add_adapter(model, "melo", head="head", rank=2)
    path = tmp_path / "task.safetensors"
    size = rg.save_task(path, model, bank, "head", metrics={"test": 0.5})
    done = recast("inspect", path)
    assert done.returncode == 0, done.stderr
    first, classes, metrics, adapter, where, head, *rows, whole = done.stdout.splitlines()
    assert bank.hash in first and classes.startswith("classes: 0, 1") and metrics == "test 0.5"
    assert adapter.startswith("adapter: melo (rank 2") and head.split() == ["tensor", "shape", "stored", "as", "bytes"]
    sizes = [int(row.split()[-1].replace(",", "")) for row in rows]
    assert sum(sizes) == int(whole.split()[-1].replace(",", "")) == size
    count = sum(p.numel() for p in rg.coefficients(model))
    parts = [int(part.split()[-1].replace(",", "")) for part in where.partition(": ")[2].split(", ")]
    assert (
        where.startswith(f"{size:,} bytes whole: head ")
        and sum(parts) == size
        and f"coefficients {4 * count:,}," in where
    )
    assert ["coefficients", str(count), "float32", str(4 * count)] in [row.split() for row in rows]
    whole = bytearray(path.read_bytes())
    whole[-1] ^= 1
    path.write_bytes(whole)
    assert "is damaged" in recast("inspect", path).stderr


def test_an_exact_bank_has_no_gap(vit, tmp_path):
    vit.bank(vit()).save(tmp_path / "bank.zarr")
    lines = recast("inspect", tmp_path / "bank.zarr").stdout.splitlines()
    assert len(lines) == 6 and all("none" in line for line in lines[2:])


def test_a_table_is_ruled_on_a_terminal_and_plain_in_a_log(capsys, monkeypatch):
    rows = [["family", "layers"], ["blocks.[*].weight", 12345]]
    show(rows)
    assert capsys.readouterr().out == "family             layers\nblocks.[*].weight  12,345\n"
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    show(rows)
    printed = capsys.readouterr().out
    assert "──" in printed and "blocks.[*].weight" in printed and "12,345" in printed
    wide = [["family", "stored in a bank", "coefficients a task"], ["blocks.*.attn.proj.weight", 1, 22]]
    for width, lines in (("50", 6), ("45", 4), ("0", 3)):
        monkeypatch.setenv("COLUMNS", width)
        show(wide)
        printed = re.sub("\x1b.*?m", "", capsys.readouterr().out)
        assert "blocks.*.attn.proj.weight" in printed and max(map(len, printed.splitlines())) <= (int(width) or 80)
        assert len(printed.splitlines()) == lines
