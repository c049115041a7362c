"""The one table of dtypes: what numpy, safetensors and zarr call the values of a tensor, for every door."""

import ml_dtypes
import numpy as np

from ..errors import StoreError

# safetensors' names -> numpy's (https://github.com/huggingface/safetensors#format)
CODES = {
    "BOOL": "bool", "BF16": "bfloat16", "C64": "complex64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
CODES |= {f"F{bits}": f"float{bits}" for bits in (16, 32, 64)}
CODES |= {f"{code}{bits}": f"{kind}{bits}" for code, kind in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)}
EXTRA = {name: np.dtype(getattr(ml_dtypes, name)) for name in CODES.values() if hasattr(ml_dtypes, name)}
KNOWN = (*CODES.values(), "complex128")  # safetensors lacks the last
FLOATING = ("float16", "bfloat16", "float32", "float64")  # can be mixed; the others are integers or quantised


def dtype_of(name: str) -> np.dtype:
    """The numpy dtype called `name`, those of `EXTRA`, which numpy itself lacks, included."""
    return EXTRA.get(name) or np.dtype(name)


def bits_of(dtype: np.dtype) -> np.dtype:
    """The dtype that holds the bits of another where numpy itself lacks that; else the same."""
    return np.dtype(f"u{dtype.itemsize}") if dtype.name in EXTRA else dtype


def code_of(name: str, dtype: str) -> str:
    """What safetensors calls the dtype of the tensor `name`.  Raises StoreError for one that it cannot hold."""
    code = next((code for code, known in CODES.items() if known == dtype), None)
    if code is None:
        raise StoreError(f"{name} is {dtype}, which safetensors cannot hold: convert it first.")
    return code
