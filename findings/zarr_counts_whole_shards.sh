#!/usr/bin/env bash
# zarr 3.1.6: an array whose rows are no multiple of its rows a shard has more initialized chunks than chunks.
#
# `Array.nchunks_initialized` multiplies the shards that exist by the chunks that a whole shard could hold. One would
# expect that it never exceeds `nchunks`, and that their difference is the number of missing chunks.
# Seen: 20 rows, one a chunk, 8 a shard: nchunks 20, nchunks_initialized 24. With one shard of three deleted both
# counts are no guide any more: 16 of 20, while 8 rows are missing and not 4.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check zarr==3.1.6 numpy==2.4.2
"$folder/venv/bin/python" - "$folder/rows" <<'PY'
import sys
from pathlib import Path

import zarr

rows = zarr.create_array(sys.argv[1], shape=(20, 4), chunks=(1, 4), shards=(8, 4), dtype="float32")
rows[...] = 1
whole = rows.nchunks, rows.nchunks_initialized
(Path(sys.argv[1]) / "c" / "0" / "0").unlink()
rows = zarr.open_array(sys.argv[1], mode="r")
cut = rows.nchunks, rows.nchunks_initialized
print("all shards:", *whole, "| one shard of three deleted:", *cut)
assert (whole, cut) == ((20, 24), (20, 16)), "zarr counts otherwise now"
PY
