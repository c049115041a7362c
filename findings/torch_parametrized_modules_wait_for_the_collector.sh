#!/usr/bin/env bash
# torch 2.14.1: a module with a parametrization is not freed when its last name is deleted.
#
# A module without one is freed at once, with its weights. One would expect the same of a parametrized one: nobody has it.
# Seen: `register_parametrization` puts a property on the module's own class whose function holds the module, so that
# module and class are a reference cycle. The weights stay until Python's collector comes by, which large tensors do not
# hurry: networks that are made and dropped in a loop add up.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.14.1 numpy==2.4.2
"$folder/venv/bin/python" - <<'PY'
import gc
import weakref

import torch
from torch import nn
from torch.nn.utils import parametrize

gc.disable()
plain, parametrized = nn.Linear(4, 4), nn.Linear(4, 4)
parametrize.register_parametrization(parametrized, "weight", nn.Identity())
kept = {"plain": weakref.ref(plain), "parametrized": weakref.ref(parametrized)}
del plain, parametrized
alive = {name: reference() is not None for name, reference in kept.items()}
gc.collect()
after = {name: reference() is not None for name, reference in kept.items()}
print("torch", torch.__version__, "alive without a name", alive, "and after gc.collect()", after)
assert alive == {"plain": False, "parametrized": True} and not any(after.values()), "modules are freed otherwise now"
PY
