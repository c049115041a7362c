#!/usr/bin/env bash
# timm 1.0.31: the data configuration of a model that was made for another image size is that of the pretrained one.
#
# `resolve_model_data_config(model)` is the way to the images that a model takes. One would expect the size that the
# model was made for, which it keeps and checks: with `img_size=98` it refuses all others.
# Seen: 518 pixels for a model of 98, and after `set_input_size(img_size=112)` still 518. What `create_transform` makes
# of the configuration is refused by the very model with an AssertionError.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check timm==1.0.31 torch==2.14.1 numpy==2.4.2
"$folder/venv/bin/python" - <<'PY'
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

model = timm.create_model("vit_small_patch14_dinov2", img_size=98, depth=1).eval()
described = resolve_model_data_config(model)
seen = [(described["input_size"], model.patch_embed.img_size)]
try:
    model(create_transform(**described)(Image.new("RGB", (640, 480)))[None])
    answer = "taken"
except AssertionError as error:
    answer = f"AssertionError: {error}"
model.set_input_size(img_size=112)
seen.append((resolve_model_data_config(model)["input_size"], model.patch_embed.img_size))
print("timm", timm.__version__, "torch", torch.__version__, "described and actual sizes:", *seen, "|", answer)
assert seen == [((3, 518, 518), (98, 98)), ((3, 518, 518), (112, 112))], "timm describes other sizes now"
assert answer.startswith("AssertionError"), "the images are taken now"
PY
