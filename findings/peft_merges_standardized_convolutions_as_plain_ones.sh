#!/usr/bin/env bash
# peft 0.21.2 with timm 1.0.31: merging LoRA into convolutions that standardize their weight makes another network.
#
# timm's BiT and NFNet are built of `StdConv2d` and `ScaledStdConv2d`, subclasses of `nn.Conv2d` that give each filter mean
# 0 and variance 1 before they use it. PEFT takes them for plain ones. One would expect what holds for plain ones: merged,
# the network computes what it computed with the adapter beside it; or an error.
# Seen: beside the layer, the adapter's convolution is added to a standardized one. Merged, its weight is added to the raw
# weight and standardized with it. `merge_and_unload(safe_merge=True)` moves the features of BiT's ResNet-50 by 79 %, and
# those of the same network with plain convolutions by 0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check peft==0.21.2 timm==1.0.31 torch==2.14.1 numpy==2.4.2
"$folder/venv/bin/python" -W error::UserWarning - <<'PY'
import peft
import timm
import torch

seen = {}
for name in ("resnetv2_50", "resnetv2_50x1_bit"):
    torch.manual_seed(0)
    base, images = timm.create_model(name, num_classes=0).eval(), torch.randn(2, 3, 64, 64)
    config = peft.LoraConfig(r=4, target_modules=["conv2"], init_lora_weights=False)
    with torch.no_grad():
        model = peft.get_peft_model(base, config).eval()
        tuned = model(images)
        merged = model.merge_and_unload(safe_merge=True)(images)
    seen[name] = round(float((merged - tuned).norm() / tuned.norm()), 2)
print("peft", peft.__version__, "timm", timm.__version__, "torch", torch.__version__, "moved by merging:", seen)
assert seen["resnetv2_50"] == 0 and seen["resnetv2_50x1_bit"] > 0.5, "merging does otherwise now"
PY
