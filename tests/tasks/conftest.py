"""A bank of a pico vision transformer for grey 8x8 images."""

import pytest
import timm
import torch

import recast_gen as rg

KWARGS = {"img_size": 8, "patch_size": 4, "in_chans": 1, "embed_dim": 16, "depth": 4, "num_heads": 2, "num_classes": 5}


@pytest.fixture(scope="session")
def bank() -> rg.TemplateBank:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", **KWARGS)
    found = rg.mimic(model, families=["blocks.*.attn.qkv"], timm_kwargs=KWARGS)
    found.backbone["data_config"] = {"input_size": [1, 8, 8], "mean": [0.5], "std": [0.5], "crop_pct": 1.0}
    return found
