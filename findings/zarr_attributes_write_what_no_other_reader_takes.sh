#!/usr/bin/env bash
# zarr 3.1.6: one attribute that is NaN or infinite, and other readers of the format cannot open the array.
#
# Zarr's metadata are JSON, which has no such numbers. zarr writes a `fill_value` of NaN as the string "NaN", as the format
# has it. One would expect the same of attributes, or an error when they are set, as of anything that JSON cannot hold.
# Seen: attributes are written as the bare words NaN and Infinity. zarr reads them back, and so notices nothing;
# tensorstore 0.1.86 says DATA_LOSS "Invalid JSON" to the whole array, though its values are sound. A loss or a metric
# of a fit that diverged, kept beside the weights, is enough.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check zarr==3.1.6 tensorstore==0.1.86 numpy==2.4.2
"$folder/venv/bin/python" -W error - "$folder" <<'PY'
import sys
from importlib.metadata import version

import numpy as np
import tensorstore
import zarr

seen = {}
for loss in (0.5, np.nan, np.inf):
    path, weights = f"{sys.argv[1]}/{loss}", np.arange(4, dtype=np.float32)
    rows = zarr.create_array(path, shape=(4,), dtype="float32", fill_value=np.nan, attributes={"loss": loss})
    rows[...] = weights
    kept = zarr.open_array(path, mode="r")
    assert np.array_equal(kept[...], weights) and np.array_equal(kept.attrs["loss"], loss, equal_nan=True)
    try:
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}}
        read = tensorstore.open(spec).result().read().result()
        seen[loss] = "read" if np.array_equal(read, weights) else "other values"
    except ValueError as error:
        seen[loss] = "Invalid JSON" if "DATA_LOSS" in str(error) and "Invalid JSON" in str(error) else str(error)
print("zarr", zarr.__version__, "reads all of them; tensorstore", version("tensorstore"), "by the attribute:", seen)
assert list(seen.values()) == ["read", "Invalid JSON", "Invalid JSON"], "attributes are written otherwise now"
PY
