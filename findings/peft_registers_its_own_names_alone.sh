#!/usr/bin/env bash
# peft 0.21.2: register_peft_method registers no method that is not in PEFT's own enumeration.
#
# It is documented as how a fine-tuning method becomes available in PEFT, and takes a name, a configuration and a model
# class. One would expect that another package can register a method of its own with it.
# Seen: ValueError "Unknown PEFT type ..., please add an entry to peft.utils.peft_types.PeftType". That is an Enum with
# members, which cannot be subclassed; only after a member is put into its private tables does the same call work.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check peft==0.21.2
"$folder/venv/bin/python" - <<'PY'
import peft
from peft.utils import register_peft_method

arguments = {"name": "mine", "config_cls": peft.PeftConfig, "model_cls": peft.LoraModel, "prefix": "mine_"}
try:
    register_peft_method(**arguments)
    seen = "registered"
except ValueError as error:
    seen = str(error)
print(peft.__version__, seen)
assert seen.startswith("Unknown PEFT type MINE"), "the registration behaves otherwise now"
PY
