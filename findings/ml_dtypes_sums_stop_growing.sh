#!/usr/bin/env bash
# ml_dtypes 0.6.0 with numpy 2.4.6: sums and means of bfloat16 and float8 arrays stop growing.
#
# numpy adds float16 in float32, so that the mean of 10,000 ones is 1. One would expect the same of the other
# short floats, whose products (`@`) and `numpy.linalg.norm` are taken in float32 or float64, too.
# Seen: numbers are added one after the other, each sum rounded to the array's dtype. A bfloat16 sum of ones ends at 256,
# an e4m3 sum at 16. The mean of 10,000 ones is 0.0256 and their standard deviation 0.16.
# A mean squared error between two bfloat16 networks is as many times too small: here 39.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check numpy==2.4.6 ml_dtypes==0.6.0
"$folder/venv/bin/python" -W error - <<'PY'
import ml_dtypes
import numpy as np

found = {}
for dtype in (np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn):
    ones = np.ones(10_000, dtype)
    found[np.dtype(dtype).name] = [round(float(value), 4) for value in (ones.sum(), ones.mean(), ones.std())]
one, other = np.ones(10_000, ml_dtypes.bfloat16), np.full(10_000, 2, ml_dtypes.bfloat16)
error, right = float(((one - other) ** 2).mean()), float(((one - other) ** 2).mean(dtype=np.float64))
print(f"numpy {np.__version__}, ml_dtypes {ml_dtypes.__version__}: sum, mean and deviation of 10,000 ones", found)
print("mean squared error of 1 against 2:", round(error, 4), "in bfloat16,", right, "with dtype=float64")
assert found["float16"] == [10_000, 1, 0], "float16 is added up otherwise now"
assert found["bfloat16"] == [256, 0.0256, 0.1602] and found["float8_e4m3fn"] == [16, 0.002, 0.043], "it is otherwise now"
assert round(right / error) == 39, "errors are otherwise now"
PY
