"""A recipe whose tasks have images of sizes of their own."""

from pathlib import Path

from typer.testing import CliRunner

from recast_gen.bank import taskfile
from recast_gen.cli import app
from recast_gen.pipelines.preview import preview
from recast_gen.pipelines.stage import execute
from recast_gen.weights.sources import read

from .pico import TASKS, pico


def test_it_is_checked_trained_generated_and_reported(whole, sketched):
    path = pico("digits", whole, tasks=[{**TASKS[0], "img_size": 16}, TASKS[1]], train={"epochs": 1})
    said = {what: (text, well) for what, text, well in preview(path)}
    assert "; of 16x16 pixels" in said["task high"][0] and all(well for _, well in said.values()), said
    for stage in ("train", "generate", "report"):
        execute(stage, path)
    store = Path("weights_store/digits")
    large = store / "train/tasks/high.safetensors"
    assert taskfile.record(large).images == [16, 16] and "tables" not in taskfile.parts(large)
    made = read(store / "generate/weights/high.safetensors").backbone
    assert list(made["data_config"]["input_size"]) == [1, 16, 16]
    assert "<td data-name='images'>16x16</td>" in (store / "report/report.html").read_text()
    assert "images: 16x16 pixels" in CliRunner().invoke(app, ["inspect", str(large)]).stdout
    path = pico("digits", whole, tasks=[{**TASKS[0], "img_size": [2, 8]}, TASKS[1]])
    (wrong,) = [text for _, text, well in preview(path) if not well]
    assert "cannot be made for [2, 8]" in wrong
