#!/usr/bin/env bash
# timm 1.0.31: learning rates that fall from layer to layer are all one, unless the schedule is timm's, too.
#
# `create_optimizer_v2(model, lr=1, layer_decay=0.5)` makes parameter groups by layer, of which each has half the learning
# rate of the next. One would expect those rates in the optimizer that comes back, whatever drives it from there.
# Seen: all groups have the rate 1. The factor lies in a key `lr_scale` that timm's schedulers alone read, from the
# moment they are made. With none, or one of torch's, as in most training loops, layers decay in name only: under three
# blocks the patch embedding learns 16 times faster than asked, without a word.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check timm==1.0.31 torch==2.14.1 numpy==2.4.2
"$folder/venv/bin/python" -W error - <<'PY'
import timm
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch.optim.lr_scheduler import CosineAnnealingLR

model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3)
seen = {}
for name, schedule in (("none", None), ("torch's", CosineAnnealingLR), ("timm's", CosineLRScheduler)):
    optimizer = create_optimizer_v2(model, opt="sgd", lr=1.0, layer_decay=0.5)
    if schedule:
        schedule(optimizer, 10)
    seen[name] = sorted({group["lr"] for group in optimizer.param_groups})
print("timm", timm.__version__, "torch", torch.__version__, "learning rates by schedule:", seen)
assert seen == {"none": [1], "torch's": [1], "timm's": [0.0625, 0.125, 0.25, 0.5, 1]}, "timm decays otherwise now"
PY
