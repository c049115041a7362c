#!/usr/bin/env bash
# numpy 2.4.6 with ml_dtypes 0.6.0: .npy files lose bfloat16 and float8, each in its own way and without a word.
#
# One would expect the array again, or an error when it is written.
# Seen, warnings being errors: bfloat16 and float8_e4m3fn are written as void and read as void (`|V2`, `|V1`), and the
# values are right once the reader names the dtype. float8_e5m2, which ml_dtypes gives kind `f`, is written as `<f1`,
# and numpy refuses to read the file that it wrote.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check numpy==2.4.6 ml_dtypes==0.6.0
"$folder/venv/bin/python" -W error - "$folder" <<'PY'
import sys

import ml_dtypes
import numpy as np

found = {}
for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
    array, file = np.array([1, 2.5], getattr(ml_dtypes, name)), f"{sys.argv[1]}/{name}.npy"
    np.save(file, array)
    try:
        again = np.load(file)
    except ValueError as error:
        found[name] = str(error)
    else:
        assert (again.view(array.dtype) == array).all()
        found[name] = again.dtype.str
print(f"numpy {np.__version__}, ml_dtypes {ml_dtypes.__version__}:", found)
refused = "descr is not a valid dtype descriptor: '<f1'"
assert found == {"bfloat16": "|V2", "float8_e4m3fn": "|V1", "float8_e5m2": refused}, "it is otherwise now"
PY
