#!/usr/bin/env bash
# peft 0.21.2: register_peft_method registers no method that is not in PEFT's own enumeration.
#
# It makes "a finetuning method like LoRA available in PEFT" from a name, a configuration and a model class. One would
# expect that another package can register a method of its own with it.
# Seen: ValueError "Unknown PEFT type MINE, please add an entry to peft.utils.peft_types.PeftType". That is an Enum with
# members, which cannot be subclassed.
# The file that holds the function is run without the rest of PEFT, whose torch is too large to fetch for this.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check --no-deps peft==0.21.2
"$folder/venv/bin/python" - <<'PY'
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path
from runpy import run_path
from types import ModuleType

for name in ("peft", "peft.mapping"):  # the tables that the function fills
    sys.modules[name] = ModuleType(name)
for name in ("CONFIG", "MIXED_MODEL", "PREFIX", "TUNER"):
    setattr(sys.modules["peft.mapping"], f"PEFT_TYPE_TO_{name}_MAPPING", {})
found = run_path(str(Path(sysconfig.get_paths()["purelib"]) / "peft" / "utils" / "peft_types.py"))
try:
    found["register_peft_method"](name="mine", config_cls=object, model_cls=object)
    seen = "registered"
except ValueError as error:
    seen = str(error)
print(version("peft"), seen)
assert seen.startswith("Unknown PEFT type MINE"), "the registration behaves otherwise now"
PY
