#!/usr/bin/env bash
# safetensors 0.8.0: the numpy writer stores a transposed view under the view's shape with the buffer's order.
#
# `safetensors.torch.save_file` refuses tensors that are not contiguous. One would expect the same of
# `safetensors.numpy.save_file`, or a copy in the right order, as version 0.7.0 made.
# Seen: a 3 x 2 view [[0, 3], [1, 4], [2, 5]] comes back as [[0, 1], [2, 3], [4, 5]] from 0.8.0, unchanged from 0.7.0.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
for version in 0.7.0 0.8.0; do
  "$folder/venv/bin/pip" install -q --disable-pip-version-check "safetensors==$version" numpy==2.4.2
  "$folder/venv/bin/python" - "$folder/view.safetensors" "$version" <<'PY'
import sys

import numpy as np
from safetensors.numpy import load_file, save_file

view = np.arange(6, dtype=np.float32).reshape(2, 3).T
save_file({"view": view}, sys.argv[1])
back = load_file(sys.argv[1])["view"]
print(sys.argv[2], "wrote", view.tolist(), "read", back.tolist())
assert np.array_equal(back, view) == (sys.argv[2] == "0.7.0"), "the writer behaves otherwise now"
PY
done
