"""Really trained CIFAR-10 networks, real images; skipped, saying so, where the files are absent."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

import recast_gen as rg
from recast_gen.errors import RecastError
from recast_gen.weights.networks import fill
from recast_gen.weights.sources import read

REAL = Path(os.environ.get("RECAST_REAL", Path(__file__).parents[3] / "shared" / "real"))
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason=f"no really trained weights at {REAL} (set RECAST_REAL)")


def vit() -> torch.nn.Module:
    weights = read(REAL / "cifar10_vit.safetensors")
    model = timm.create_model(weights.backbone["timm_model"], **weights.backbone["timm_kwargs"])
    fill(model, weights)
    return model.eval()


def resnet() -> torch.nn.Module:
    spec = importlib.util.spec_from_file_location("cifar_resnet", REAL / "cifar_resnet.py")
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    model = module.cifar_resnet(3)
    fill(model, read(REAL / "cifar10_resnet20.safetensors"))
    return model.eval()


def images(mean, std) -> tuple[torch.Tensor, torch.Tensor]:
    file = np.load(REAL / "cifar10_test1000.npz")
    pixels = torch.from_numpy(file["x_test"]).permute(0, 3, 1, 2) / 255
    normalised = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    return normalised, torch.from_numpy(file["y_test"])


@pytest.mark.parametrize(
    ("make", "mean", "std", "reference"),
    [(vit, [0.5] * 3, [0.5] * 3, 0.730), (resnet, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225], 0.817)],
    ids=["vit", "resnet20"],
)
def test_full_templates_keep_every_prediction_of_a_really_trained_network(make, mean, std, reference):
    model, (pixels, labels) = make(), images(mean, std)
    with torch.no_grad():
        before = model(pixels)
        assert abs(float((before.argmax(1) == labels).float().mean()) - reference) < 0.002
        bank = rg.mimic(model, groups=1)
        rg.attach(model, bank, resolution=4)
        after = model(pixels)
    assert torch.equal(before.argmax(1), after.argmax(1))
    assert (before - after).abs().max() < 1e-3 * before.abs().max()
    assert max(measured["relative_error"] for measured in bank.certificate.values()) < 1e-6


def test_a_bank_below_full_rank_is_certified_at_the_bound_and_a_foreign_network_is_refused():
    model = vit()
    bank = rg.mimic(model, families=["blocks.*.mlp.fc*"], templates=2)
    for measured in bank.certificate.values():
        # nearly orthogonal layers: two templates for four of them lose about half of the energy
        assert 0.5 < measured["bound"] < 0.8 and measured["gap"] < 1e-6
    about = json.loads(json.dumps(read(REAL / "cifar10_vit.safetensors").backbone["timm_kwargs"]))
    fresh = timm.create_model("vit_tiny_patch16_224", **about)
    with pytest.raises(RecastError, match="not the weight that the bank was fitted to"):
        rg.attach(fresh, bank)
