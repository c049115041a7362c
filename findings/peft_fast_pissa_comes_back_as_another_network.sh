#!/usr/bin/env bash
# peft 0.21.2: an adapter that starts with fast PiSSA is another one after it is saved and loaded, without a word.
#
# PiSSA starts LoRA at the largest singular values of each weight and takes them out of the base. `pissa_niter_16`, which
# the documentation calls about as good as the exact decomposition, finds them by a random projection. One would expect
# that the file and the base network give back what was saved, as of LoRA and of the exact `pissa`.
# Seen: the file holds factors and no seed. Loading draws other factors from the base, takes those out, and puts the
# saved ones in. Saved and loaded untouched, the outputs are 17 % away with 16 iterations and 34 % with 4; those of the
# other two are the same. A task that is measured after training and shipped as its file is not what was measured.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check peft==0.21.2 torch==2.14.1 numpy==2.4.2
"$folder/venv/bin/python" -W error::UserWarning - "$folder" <<'PY'
import copy
import sys

import peft
import torch
from torch import nn

torch.manual_seed(0)
base, given = nn.Sequential(nn.Linear(192, 192)), torch.randn(64, 192)
seen = {}
for start in (True, "pissa", "pissa_niter_16", "pissa_niter_4"):
    config = peft.LoraConfig(r=8, target_modules=["0"], init_lora_weights=start)
    model, path = peft.get_peft_model(copy.deepcopy(base), config), f"{sys.argv[1]}/{start}"
    model.save_pretrained(path)
    again = peft.PeftModel.from_pretrained(copy.deepcopy(base), path)
    with torch.no_grad():
        wanted, found = model(given), again(given)
    seen[start] = round(float((found - wanted).norm() / wanted.norm()), 2)
print("peft", peft.__version__, "torch", torch.__version__, "how far outputs are away when loaded again:", seen)
assert seen[True] == seen["pissa"] == 0, "adapters are loaded otherwise now"
assert seen["pissa_niter_16"] > 0.1 and seen["pissa_niter_4"] > 0.1, "adapters are loaded otherwise now"
PY
