"""A task as few bytes: what it is, compressed, then its arrays; as one tensor it is a safetensors file."""

import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import counting
from .packing import Levels, from_bytes, kind, to_bytes

FORMAT, BEFORE = "3", "2"  # the one before spells out every class, and had its number beside its tensor
CHECK = 16  # bytes of the checksum, and of a bank's hash
# Part of the format: what descriptions often say, most often last.  Other words make other files unreadable.
WORDS = (
    b'"adaptformer","options":{"bottleneck":64,"scale":0.1,"dropout":"clr","melo","rank":4,"alpha":"piggyback",'
    b'"threshold":"sampled":{"index":0,"seed":0,"source":"prior","posterior","temperature":1.0}"interpolated":'
    b'["adapter:blocks.0.attn.qkv.weight.mask",.attn.proj.weight.down",.mlp.fc1.weight.up",.mlp.fc2.weight"layer4.0.conv1'
    b'.weight.log_scale",uint8,float16,bfloat16"float32",["linear.bias",["linear.weight",["fc.bias",["fc.weight",['
    b'"classifier.bias",["classifier.weight",["head.fc.bias",["head.fc.weight",[384],[768,[100],["head.bias",[10],'
    b'"float16",["head.weight",[10,384],15,true],3,false],255],[["",[48],"float16",false],1,[1],'
    b'[{"adapter":{"head":"head","name":"backbone":"resnet34_a1_in1k_resnet50","vit_base_patch16_224","vit_small_patch14'
    b'_dinov2","classes":["0","1","2","3","4","5","6","7","8","9","10","11","12","13","14"],"head":"head","metrics":{'
    b'"test":0.9,"validation":0.8},"recipe":"digits"},1,[1],['
)


class Damaged(ValueError):
    """Bytes that do not match their checksum."""


def size_of(about: dict[str, Any]) -> list[int] | None:
    """Height and width of a task's images, where they are not the backbone's."""
    found: list[int] | None = (about.get("size") or {}).get("img_size") or about.get("input_size")
    return found


@dataclass
class Record:
    """What a task file holds, of whatever bank: the task in terms that need the bank to be understood.

    bank: its hash.  sets, resolution: of the coefficients; one resolution, or one for each family.
    arrays: (name, array), the coefficients first, of which each is called "".
    """

    bank: str
    sets: int
    resolution: list[int]
    about: dict[str, Any]
    arrays: list[tuple[str, np.ndarray | Levels]]

    def named(self) -> dict[str, np.ndarray | Levels]:
        """The arrays besides the coefficients."""
        return {name: array for name, array in self.arrays if name}

    @property
    def images(self) -> list[int] | None:
        """Height and width of its images, where they are not the backbone's."""
        return size_of(self.about)

    def coefficients(self) -> list[np.ndarray | Levels]:
        return [array for name, array in self.arrays if not name]


def encode(record: Record) -> bytes:
    """Checksum, bank's hash, the description in deflate's format, the arrays."""
    found = [to_bytes(array) for _, array in record.arrays]
    arrays = [[name, list(array.shape), kind(array), coded] for (name, array), (_, coded) in zip(record.arrays, found)]
    description = [_classes(record.about, counting.short), record.sets, record.resolution, arrays]
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    coder = zlib.compressobj(9, zlib.DEFLATED, -15, 9, zdict=WORDS)
    content = bytes.fromhex(record.bank) + coder.compress(text.encode()) + coder.flush()
    content += b"".join(data for data, _ in found)
    return hashlib.sha256(content).digest()[:CHECK] + content


def decode(data: bytes) -> Record:
    """The record that was encoded.  Raises Damaged, and others for whole bytes that mean nothing."""
    if hashlib.sha256(data[CHECK:]).digest()[:CHECK] != data[:CHECK]:
        raise Damaged
    coder = zlib.decompressobj(-15, zdict=WORDS)
    text, left = coder.decompress(data[2 * CHECK :]) + coder.flush(), coder.unused_data
    about, sets, resolution, described = json.loads(text)
    arrays = []
    for name, shape, stored, coded in described:
        array, left = from_bytes(left, tuple(shape), stored, coded)
        arrays.append((name, array))
    if left:
        raise ValueError(f"{len(left)} bytes too many")
    about = _classes(dict(about), counting.long)
    return Record(data[CHECK : 2 * CHECK].hex(), int(sets), list(map(int, resolution)), about, arrays)


def _classes(about: dict[str, Any], change: Callable[[list[Any]], list[Any]]) -> dict[str, Any]:
    return about | ({"classes": change(about["classes"])} if about.get("classes") else {})
