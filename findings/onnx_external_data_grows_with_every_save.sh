#!/usr/bin/env bash
# onnx 1.23.2: saving a model again with its weights beside it makes the file of weights larger each time.
#
# `save_model(..., save_as_external_data=True, location="weights.bin")` raises FileExistsError where that file is there
# already. One would expect that, or a file that holds the weights once.
# Seen: it looks for the file in the current folder, and writes it into the model's. Elsewhere than in the current folder
# the weights go to the end of what is there. The same network of 1 MiB, saved three times to one place, has 3 MiB, of
# which 2 are read by nothing; the model loads, and its values are right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnx==1.23.2 numpy==2.4.6
mkdir "$folder/models" "$folder/elsewhere"
cd "$folder/elsewhere"
"$folder/venv/bin/python" - "$folder/models" <<'PY'
import os
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

models, weights = Path(sys.argv[1]), np.arange(2**18, dtype=np.float32).reshape(512, 512)


def save(path):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 512]) for name in "xy"]
    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([product], "one layer", ends[:1], ends[1:], [numpy_helper.from_array(weights, "w")])
    onnx.save_model(helper.make_model(graph), str(path), save_as_external_data=True, location="weights.bin")


sizes = []
for _ in range(3):
    save(models / "model.onnx")
    sizes.append((models / "weights.bin").stat().st_size / 2**20)
[read] = onnx.load(models / "model.onnx").graph.initializer
assert np.array_equal(numpy_helper.to_array(read), weights)
os.chdir(models)
try:
    save("model.onnx")
    here = "saved"
except FileExistsError:
    here = "FileExistsError"
print("onnx", onnx.__version__, "MiB of weights after each save:", sizes, "| in the current folder:", here)
assert sizes == [1, 2, 3] and here == "FileExistsError", "onnx saves otherwise now"
PY
