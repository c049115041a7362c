"""What a task says of images: the same from torch, from a library and from a graph without torch."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from PIL import Image
from typer.testing import CliRunner, Result

import recast_gen as rg
from recast_gen.cli import app
from recast_gen.errors import DataError, ExportError, TaskError
from recast_gen.recipe.images import Data
from recast_gen.tasks.evaluation import evaluate
from recast_gen.tasks.prediction import predict
from recast_gen.weights import networks

NAMES = ["cat", "dog", "eel"]
SIZES = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}


def trained(bank: rg.TemplateBank, path, names, seed: int = 0, adapter: str | None = None):
    """A task file of random coefficients and head; its model."""
    torch.manual_seed(seed)
    model = rg.attach(networks.rebuild(bank.base(), num_classes=len(names)), bank)
    if adapter:
        rg.add_adapter(model, adapter, head="head")
    with torch.no_grad():
        for parameter in [*rg.coefficients(model), *model.head.parameters()]:
            parameter += torch.randn_like(parameter)
    rg.save_task(path, model, bank, "head", names)
    return model.eval()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A bank, a graph of it, a task, images: a folder of 3 + 2 + 1 in a test part, one of them bad."""
    folder = tmp_path_factory.mktemp("front")
    torch.manual_seed(0)
    bank = rg.mimic(networks.create("vit_tiny_patch16_224", SIZES | {"num_classes": 5}), timm_kwargs=SIZES)
    bank.save(folder / "bank.zarr")
    model = trained(bank, folder / "tasks" / "animals.safetensors", NAMES)
    rng = np.random.default_rng(0)
    for name, count in zip(NAMES, (3, 2, 1)):
        for index in range(count):
            path = folder / "photos" / "test" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (20 + index, 31, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    (folder / "bad.jpg").write_bytes(b"no image")
    rg.to_graph(bank, folder / "graph.onnx")
    return folder, bank, model


def recast(*words) -> Result:
    return CliRunner().invoke(app, list(map(str, words)))


def test_torch_graph_and_library_say_the_same(place):
    folder, bank, model = place
    paths = sorted((folder / "photos").rglob("*.png"))
    images = [Image.open(path) for path in paths]
    lib = rg.TaskLibrary(folder / "tasks", bank=bank)
    said = lib.predict(images, "animals")
    with torch.no_grad():
        expected = model(torch.stack([lib.transform(image) for image in images])).softmax(1)
    for graph in (None, folder / "graph.onnx"):
        found = predict(bank, folder / "tasks" / "animals.safetensors", paths, graph)
        for one, row, other in zip(found, expected, said, strict=True):
            assert one.label == NAMES[int(row.argmax())] == next(iter(other))
            assert list(one.probabilities.values()) == sorted(one.probabilities.values(), reverse=True)
            assert [one.probabilities[name] for name in NAMES] == pytest.approx(row.tolist(), abs=1e-5)
            assert other == pytest.approx(one.probabilities, abs=1e-5)
    assert lib.classes("animals") == NAMES and lib.current is None
    with pytest.raises(TaskError, match="animals"):
        lib.predict(images)


def test_images_are_given_in_any_form_and_seen_alike(place, tmp_path):
    folder, bank, _ = place
    task = folder / "tasks" / "animals.safetensors"
    pixels, exif = np.random.default_rng(1).integers(0, 256, (24, 16, 3), np.uint8), Image.Exif()
    exif[0x0112] = 6  # to be turned
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(np.dstack([pixels, pixels[..., 0]])).save(tmp_path / "b.png")
    paths = sorted(tmp_path.iterdir())
    expected = [one.probabilities for one in predict(bank, task, paths)]
    assert [one.probabilities for one in predict(bank, task, tmp_path)] == expected
    assert [one.probabilities for one in predict(bank, task, map(Image.open, paths))] == expected
    upright = np.stack([pixels, pixels])
    single, batch = predict(bank, task, pixels), predict(bank, task, upright)
    assert len(single) == 1 and len(batch) == 2 and single[0].probabilities == pytest.approx(batch[1].probabilities)
    lib = rg.TaskLibrary(folder / "tasks", bank=bank)
    for images in (paths, [str(path) for path in paths], list(map(Image.open, paths))):
        for found, wanted in zip(lib.predict(images, "animals"), expected):
            assert found == pytest.approx(wanted, abs=1e-5)
    assert lib.predict(Image.open(paths[0]), "animals")[0] == pytest.approx(expected[0], abs=1e-5)
    assert lib.predict(pixels, "animals") == [pytest.approx(single[0].probabilities, abs=1e-5)]
    for wrong in (None, 3, [torch.zeros(3, 4, 4)], [pixels / 255], [b"bytes"]):
        assert all("expected" in one.error for one in predict(bank, task, wrong))
    with pytest.raises(TaskError, match="Did you mean 'animals'"):
        lib.use("animals.safetensors")
    for wrong in (["a"], "", None, {"source": "digits"}):
        with pytest.raises(DataError, match="expected the path of a folder"):
            evaluate(bank, task, wrong)


def test_the_graph_answers_without_torch_and_a_bad_image_stops_no_other(place):
    folder, *_ = place
    script = (
        "import json, sys; from recast_gen.tasks.prediction import predict; from recast_gen.tasks.evaluation import "
        "evaluate; f = predict('bank.zarr', 'tasks/animals.safetensors', ['bad.jpg', 'photos/test/eel/0.png'], "
        "'graph.onnx'); e = evaluate('bank.zarr', 'tasks/animals.safetensors', 'photos', 'graph.onnx'); "
        "print(json.dumps([[one.label for one in f], e.accuracy, sorted(sys.modules)]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    labels, accuracy, modules = json.loads(done.stdout)
    assert labels[0] is None and labels[1] in NAMES
    assert accuracy == evaluate(folder / "bank.zarr", folder / "tasks/animals.safetensors", folder / "photos").accuracy
    assert not {"torch", "timm", "sklearn"} & set(modules)


def test_the_command_answers_a_line_an_image_and_reports_a_bad_one(place, monkeypatch):
    monkeypatch.chdir(place[0])
    done = recast("predict", "bank.zarr", "tasks/animals.safetensors", "bad.jpg", "photos", "--json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.exit_code == 1 and len(rows) == 7 and "UnidentifiedImageError" in rows[0]["error"]
    assert all(row["class"] in NAMES and set(row["probabilities"]) == set(NAMES) for row in rows[1:])
    plain = recast("predict", "bank.zarr", "tasks/animals.safetensors", "photos/test/eel/0.png", "--top", 1)
    assert plain.exit_code == 0, plain.output
    name, share = plain.stdout.split()[1:]
    assert name == rows[-1]["class"] and share.endswith("%")


def test_an_adapter_that_adds_layers_predicts_in_torch(place):
    folder, bank, _ = place
    model = trained(bank, folder / "adapted.safetensors", NAMES, seed=3, adapter="adaptformer")
    path = folder / "photos" / "test" / "dog" / "1.png"
    image = rg.TaskLibrary(folder / "tasks", bank=bank).transform(Image.open(path))
    expected = NAMES[int(model(image[None]).argmax())]
    assert predict(bank, folder / "adapted.safetensors", path)[0].label == expected


def test_evaluation_counts_what_is_taken_for_what(place, tmp_path):
    folder, bank, _ = place
    task, photos = folder / "tasks" / "animals.safetensors", folder / "photos"
    found = evaluate(bank, task, photos)
    said = [one.label for one in predict(bank, task, sorted(photos.rglob("*.png")))]
    expected = np.zeros((3, 3), int)
    for label, name in zip([0, 0, 0, 1, 1, 2], said):
        expected[label, NAMES.index(name)] += 1
    assert np.array_equal(found.confusion, expected) and found.part == "test"
    assert found.accuracy == expected.trace() / 6 and [row["images"] for row in found.per_class()] == [3, 2, 1]
    done = recast("evaluate", folder / "bank.zarr", task, photos, "--csv", tmp_path / "matrix.csv")
    assert done.exit_code == 0 and f"accuracy {found.accuracy:.1%}" in done.stdout, done.output
    rows = [line.split(",") for line in (tmp_path / "matrix.csv").read_text().splitlines()]
    assert rows == [["label", *NAMES], *([name, *map(str, row)] for name, row in zip(NAMES, expected))]
    assert str(tmp_path / "matrix.csv") in done.stdout


def test_classes_go_by_name_and_unknown_ones_are_refused(place, tmp_path):
    folder, bank, _ = place
    task, pixels = folder / "tasks" / "animals.safetensors", np.zeros((4, 9, 9, 3), np.uint8)
    for names, fits in ((["eel", "cat"], True), (["eel", "elk"], False)):
        np.savez(tmp_path / "x.npz", x=pixels, y=np.array([0, 0, 0, 1]), classes=np.array(names))
        if fits:
            assert evaluate(bank, task, tmp_path / "x.npz").confusion.sum(1).tolist() == [1, 0, 3]
            assert evaluate(bank, task, Data.of(tmp_path / "x.npz", classes=[0])).confusion.sum(1).tolist() == [0, 0, 3]
        else:
            with pytest.raises(DataError, match="elk.*it knows cat, dog, eel"):
                evaluate(bank, task, tmp_path / "x.npz")


def test_another_bank_a_foreign_graph_and_no_image_are_refused_by_name(place, tmp_path):
    folder, bank, _ = place
    task, image = folder / "tasks" / "animals.safetensors", folder / "photos" / "test" / "eel" / "0.png"
    torch.manual_seed(1)
    other = rg.mimic(networks.create("vit_tiny_patch16_224", SIZES), timm_kwargs=SIZES)
    with pytest.raises(TaskError, match=other.hash):
        predict(other, task, image)
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("images", "logits")]
    whole = helper.make_graph([helper.make_node("Relu", ["images"], ["logits"])], "g", sides[:1], sides[1:])
    onnx.save(
        helper.make_model(whole, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "whole.onnx"
    )
    with pytest.raises(ExportError, match="weights of its own"):
        predict(bank, task, image, tmp_path / "whole.onnx")
    with pytest.raises(ExportError, match="bad.jpg cannot be read"):
        predict(bank, task, image, folder / "bad.jpg")
    with pytest.raises(DataError, match="no image"):
        predict(bank, task, [])
