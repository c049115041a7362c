"""A token bank <-> its file."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from ..errors import StoreError
from ..weights.files import read_tensors
from .cutting import Cut, Piece
from .tokens import FORMAT, TokenBank, Tokens, content_hash


def is_tokens(path: str | Path) -> bool:
    """Whether a file is a token bank, sound or not."""
    try:
        with safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get("kind") == "tokens"
    except Exception:  # a directory, another format, nothing: whoever reads it next says so
        return False


def load_tokens(path: str | Path) -> TokenBank:
    """Reads and verifies a token bank.

    Args:
        path: of its file.
    Returns:
        The token bank, in memory.
    Raises:
        StoreError: it is missing, foreign or damaged.
    """
    try:
        arrays, about = read_tensors(path)
    except Exception as error:
        raise StoreError(f"{path} cannot be read as a token bank ({error}): copy or fit it again.") from error
    if about.get("kind") != "tokens" or about.get("format") != FORMAT:
        raise StoreError(f"{path} is no token bank of format {FORMAT}: give one that rg.mimic_tokens saved.")
    content = json.loads(about["content"])
    if about["hash"] != content_hash(content, arrays):
        raise StoreError(f"{path} is damaged: its content does not match its hash. Copy or fit it again.")
    decoders: dict[int, dict[str, Any]] = {}
    for name in arrays:
        if name.startswith("decoder."):
            _, which, part = name.split(".", 2)
            decoders.setdefault(int(which), {})[part] = arrays[name]
    tokens = {}
    for index, entry in enumerate(content["tokens"]):
        raw = entry["cut"]
        cut = Cut(
            raw["kind"], raw["blocks"], tuple(Piece(**piece) for piece in raw["pieces"]), tuple(raw["layers"]),
            tuple(map(tuple, raw["shapes"])), raw["count"], tuple(map(tuple, raw["scales"])),
        )  # fmt: skip
        mean, deviation, match = (arrays[f"tokens.{index}.{name}"] for name in ("mean", "deviation", "match"))
        decoder = decoders[entry["decoder"]]
        tokens[cut.name] = Tokens(cut, mean, deviation, match, decoder, entry["family"], entry["families"])
    rest = {name.removeprefix("rest."): array for name, array in arrays.items() if name.startswith("rest.")}
    return TokenBank(tokens, rest, content["backbone"], content["fit"])
