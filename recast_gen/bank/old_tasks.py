"""Task files of format 1, which named every tensor in the header of a safetensors file."""

import json

import numpy as np

from ..weights.named import digest
from .compact import Damaged, Record

FORMAT = "1"


def decode(meta: dict[str, str], tensors: dict[str, np.ndarray]) -> Record:
    """The record of a file's metadata and tensors.  Raises Damaged, and others for whole ones that mean nothing."""
    meta = dict(meta)
    if meta.pop("sha256", None) != digest(meta, *(part for name in sorted(tensors) for part in (name, tensors[name]))):
        raise Damaged
    about, counts = dict(json.loads(meta["about"])), list(map(int, meta["resolution"].split()))
    if "adapter" in about:
        about["adapter"].setdefault("head", about.get("head", ""))  # as it was before files named it
    flat = tensors.pop("coefficients").astype(np.float32)
    return Record(meta["bank"], int(meta["sets"]), counts, about, [("", flat), *tensors.items()])
