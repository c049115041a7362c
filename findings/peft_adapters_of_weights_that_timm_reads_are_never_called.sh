#!/usr/bin/env bash
# peft 0.21.2 with timm 1.0.31: adapters of the qkv of BEiT, EVA and Swin v2 are counted, saved and merged, never used.
#
# `target_modules=["qkv"]` is the usual place of LoRA in a vision transformer. One would expect that the network computes
# with it, and that merging changes nothing that it computes.
# Seen: these three hand `self.qkv.weight` and a bias of their own to `F.linear`. PEFT's layer in that place gives the
# frozen weight to who reads it, and is not called. No gradient reaches the adapter, whatever it holds; beside others
# that train it goes unnoticed. `merge_and_unload` does add it, so that the merged network computes something else.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check peft==0.21.2 timm==1.0.31 torch==2.14.1 numpy==2.4.2
"$folder/venv/bin/python" - <<'PY'
import warnings

import peft
import timm
import torch

warnings.simplefilter("ignore")
SMALL = {
    "vit_tiny_patch16_224": {"depth": 2},
    "beit_base_patch16_224": {"depth": 2, "embed_dim": 96, "num_heads": 3},
    "eva_giant_patch14_224": {"depth": 2, "embed_dim": 96, "num_heads": 3, "patch_size": 16},
    "swinv2_tiny_window8_256": {"depths": (1, 1), "num_heads": (2, 4), "embed_dim": 48, "window_size": 4},
}
seen = {}
for name, options in SMALL.items():
    torch.manual_seed(0)
    base, images = timm.create_model(name, img_size=32, **options).eval(), torch.randn(2, 3, 32, 32)
    for norm in filter(lambda module: isinstance(module, torch.nn.LayerNorm), base.modules()):
        torch.nn.init.ones_(norm.weight)  # Swin v2 starts some at 0, as if its blocks were not there
    plain = base.forward_features(images)
    model = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["qkv"], init_lora_weights=False))
    trained = model.get_nb_trainable_parameters()[0]
    tuned = model.forward_features(images)
    merged = model.merge_and_unload().forward_features(images)
    moved, kept = (not torch.allclose(tuned, plain, atol=1e-4)), torch.allclose(merged, tuned, atol=1e-4)
    seen[name.split("_")[0]] = trained > 0, tuned.requires_grad, moved, kept
print("peft", peft.__version__, "timm", timm.__version__, "torch", torch.__version__)
print("network: (counted as trained, reached by gradients, of effect, the same when merged)", seen)
unused = (True, False, False, False)
assert seen == {"vit": (True, True, True, True), "beit": unused, "eva": unused, "swinv2": unused}, "it is otherwise now"
PY
