"""The example for the device: what it answers is what the trained models answer."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import recast_gen as rg
from recast_gen.weights import networks, sources

from ..process import script

EDGE = Path(__file__).parents[2] / "examples" / "edge"
SIZES = {"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2}
TASKS = {"birds": 3, "flowers": 5, "letters": 3}  # classes
IMAGES = np.random.default_rng(0).random((4, 3, 16, 16), dtype=np.float32)
ANSWER = """
import json, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[1])
from edge import Edge
edge = Edge(Path(sys.argv[2]))
images = np.load(sys.argv[3])
order = sys.argv[4:]
answers = [edge.logits(images, task).tolist() for task in order]
print(json.dumps([answers, sorted(sys.modules)]))
"""


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    """A folder as build.py makes it, and what each trained model answers."""
    folder = tmp_path_factory.mktemp("edge")
    model = networks.create("vit_tiny_patch16_224", SIZES | {"num_classes": 3})
    weights = sources.read(model, timm_kwargs=SIZES)
    weights.backbone["data_config"] |= {"input_size": [3, 16, 16]}
    bank = rg.mimic(weights, families=["blocks.*.attn.qkv", "blocks.*.mlp.fc?"], groups=2)
    bank.save(folder / "bank.zarr")
    config, expected = weights.backbone["data_config"], {}
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    for seed, (task, classes) in enumerate(TASKS.items()):
        trained = rg.attach(networks.rebuild(bank.base(), num_classes=classes), bank)
        generator = torch.Generator().manual_seed(seed)
        for parameter in [*rg.coefficients(trained), *trained.head.parameters()]:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
        names = [f"{task} {index}" for index in range(classes)]
        rg.save_task(folder / "tasks" / f"{task}.safetensors", trained, bank, classes=names)
        expected[task] = trained.eval()((torch.from_numpy(IMAGES) - mean) / std).detach().numpy()
    done = script(EDGE / "build.py", folder / "bank.zarr", folder / "tasks", folder / "device")
    assert done.returncode == 0, done.stderr
    np.save(folder / "images.npy", IMAGES)
    return folder, expected


def test_every_request_is_answered_under_its_own_task_without_torch(device):
    folder, expected = device
    order = ["flowers", "birds", "birds", "letters", "flowers", "birds"]
    words = [sys.executable, "-c", ANSWER, EDGE, folder / "device", folder / "images.npy", *order]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers, modules = json.loads(done.stdout)
    for task, answer in zip(order, answers):
        np.testing.assert_allclose(answer, expected[task], rtol=1e-4, atol=1e-4, err_msg=task)
    assert not {"torch", "timm", "lightning"} & set(modules)


def test_the_program_prints_the_names_of_the_classes_and_refuses_an_unknown_task(device):
    folder, expected = device
    command = [sys.executable, EDGE / "edge.py", folder / "device"]
    requests = [f"{task}={folder / 'images.npy'}" for task in ("letters", "flowers")]
    done = subprocess.run([*command, *requests], capture_output=True, text=True)
    lines = [
        f"{task}: " + " ".join(f"{task} {best}" for best in expected[task].argmax(1)) for task in ("letters", "flowers")
    ]
    assert done.stdout.splitlines() == lines, done.stderr
    done = subprocess.run([*command, f"flower={folder / 'images.npy'}"], capture_output=True, text=True)
    assert done.returncode and "Did you mean 'flowers'?" in done.stderr


def test_the_graph_holds_no_weights(device):
    folder, _ = device
    bank = (folder / "device" / "bank.safetensors").stat().st_size
    import onnx

    graph = onnx.load(folder / "device" / "graph.onnx").graph
    held = sum(np.prod(tensor.dims) for tensor in graph.initializer)
    assert held < 100 < bank
    assert {"images", "blocks.0.attn.qkv.weight", "head.weight"} <= {entry.name for entry in graph.input}
