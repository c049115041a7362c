#!/usr/bin/env bash
# peft 0.21.2: a TinyLoRA file holds the frozen factors of every layer, with save_projection=False, too.
#
# TinyLoRA trains a few numbers a layer, here 4; all else follows from the base model's own singular vectors and a seed.
# `save_projection=False` says that what is projected onto is not saved but made again. One would expect a file about as
# small as what is trained.
# Seen, for one layer of 192 x 192 and rank 2: 4 numbers trained, 788 in the state dict, and 772 without the projection.
# Those 768 that stay are the factors of the frozen weight itself, rank x (inputs + outputs) a layer: LoRA of that rank
# has a file as large.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check peft==0.21.2 torch==2.14.1 numpy==2.4.2
"$folder/venv/bin/python" - <<'PY'
import warnings

import peft
import torch
from torch import nn

warnings.simplefilter("ignore")
counts = []
for saved in (True, False):
    config = peft.TinyLoraConfig(r=2, u=4, target_modules=["0"], save_projection=saved, projection_seed=0)
    model = peft.get_peft_model(nn.Sequential(nn.Linear(192, 192)), config)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    stored = sum(tensor.numel() for tensor in peft.get_peft_model_state_dict(model).values())
    counts.append((trained, stored))
lora = peft.get_peft_model(nn.Sequential(nn.Linear(192, 192)), peft.LoraConfig(r=2, target_modules=["0"]))
others = sum(tensor.numel() for tensor in peft.get_peft_model_state_dict(lora).values())
print("peft", peft.__version__, "torch", torch.__version__, "trained and stored numbers:", *counts, "| LoRA:", others)
assert counts == [(4, 788), (4, 772)] and others == 768, "TinyLoRA stores otherwise now"
PY
