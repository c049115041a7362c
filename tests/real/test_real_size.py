"""The slowest test: a network of real size, ViT-B with random weights, whose families fill several shards."""

import numpy as np
import timm
import torch

import recast_gen as rg
from recast_gen.bank.saved import open_bank
from recast_gen.weights import sources, store


def test_vit_base_is_extracted_mimicked_saved_opened_and_generated(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("vit_base_patch16_224")
    store.save_layers(tmp_path / "extract.zarr", sources.read(model))
    assert len(list((tmp_path / "extract.zarr" / "blocks.%2A.mlp.fc1.weight" / "c").iterdir())) > 1
    written = rg.mimic(tmp_path / "extract.zarr").save(tmp_path / "bank.zarr")
    bank = open_bank(tmp_path / "bank.zarr")
    assert bank.hash == written and max(each["relative_error"] for each in bank.certificate.values()) < 1e-6
    made, expected = rg.generate(bank), model.state_dict()
    assert made.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_allclose(made[name], tensor, rtol=0, atol=1e-6, err_msg=name)
