"""A network's blocks cut into tokens and put together again; numpy only."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..errors import FitError, check_choice, listing

NORM = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Piece:
    """A tensor of a block whose `axis` is ``(part token within)``; each token takes its slices of all parts."""

    tensor: str
    axis: int
    parts: int = 1


def _filter(conv: str, norm: str) -> tuple[Piece, ...]:
    return Piece(f"{conv}.weight", 0), *(Piece(f"{norm}.{name}", 0) for name in NORM)


# kind -> the sorts of token it has; a neuron is a hidden unit of a residual branch with all that touches it
KINDS: dict[str, tuple[tuple[Piece, ...], ...]] = {
    "neuron": (
        (Piece("mlp.fc1.weight", 0), Piece("mlp.fc1.bias", 0), Piece("mlp.fc2.weight", 1)),
        (*_filter("conv1", "bn1"), Piece("conv2.weight", 1)),
    ),
    "head": ((Piece("attn.qkv.weight", 0, 3), Piece("attn.qkv.bias", 0, 3), Piece("attn.proj.weight", 1)),),
    "tile": tuple(_filter(f"conv{index}", f"bn{index}") for index in (1, 2, 3)),
}
UNORDERED = ("neuron", "head")  # tokens of a layer that can change places without changing what it computes
OUTPUTS = ("attn.proj.weight", "attn.proj.bias", "mlp.fc2.weight", "mlp.fc2.bias")  # what a branch adds is linear in
LAST_NORMS = ("bn3", "bn2")  # of a residual branch of convolutions


def ends(block: Mapping[str, np.ndarray]) -> list[str]:
    """The tensors that what a block adds is linear in: its last norm's, or else those of its last projections."""
    last = next((norm for norm in LAST_NORMS if f"{norm}.weight" in block), None)
    names = OUTPUTS if last is None else (f"{last}.weight", f"{last}.bias")
    return [name for name in names if name in block]


@dataclass(frozen=True)
class Cut:
    """One sort of token in one list of blocks.  layers: the blocks' numbers in depth order.

    shapes: of each piece's tensor.  count: tokens in a layer.  scales: of each layer's pieces, their root mean square.
    """

    kind: str
    blocks: str
    pieces: tuple[Piece, ...]
    layers: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    count: int
    scales: tuple[tuple[float, ...], ...] = ()

    @property
    def name(self) -> str:
        return f"{self.blocks}*.{self.pieces[0].tensor.removesuffix('.weight')} {self.kind}"

    @property
    def size(self) -> int:
        """Numbers in a token."""
        return sum(int(np.prod(shape)) for shape in self.shapes) // self.count

    def take(self, weights: Mapping[str, np.ndarray], layer: int) -> list[np.ndarray]:
        """Of each piece its part ``n ...`` of the tokens of a layer, not scaled."""
        found = []
        for piece in self.pieces:
            tensor = np.asarray(weights[f"{self.blocks}{layer}.{piece.tensor}"], np.float64)
            if piece.tensor.endswith("running_var"):
                tensor = np.log(tensor + 1e-12)  # whatever is generated is above 0
            ahead = np.moveaxis(tensor, piece.axis, 0)
            split = ahead.reshape(piece.parts, self.count, -1, *ahead.shape[1:])
            found.append(np.moveaxis(split, 1, 0).reshape(self.count, -1))
        return found

    def put(self, tokens: np.ndarray, at: float) -> dict[str, np.ndarray]:
        """Tokens ``n d`` -> the tensors of a block, float32, by their names in it.

        at: where its scales are taken, in layers of this cut; between two of them it is their geometric mean.
        """
        made, start, (low, share) = {}, 0, (int(at), at % 1)
        pairs = zip(self.scales[low], self.scales[min(low + 1, len(self.scales) - 1)])
        scales = [first ** (1 - share) * last**share for first, last in pairs]
        for piece, shape, scale in zip(self.pieces, self.shapes, scales):
            ahead = (shape[piece.axis], *np.delete(shape, piece.axis))
            stop = start + int(np.prod(shape)) // self.count
            split = (scale * tokens[:, start:stop]).reshape(self.count, piece.parts, -1, *ahead[1:])
            tensor = np.moveaxis(np.moveaxis(split, 0, 1).reshape(ahead), 0, piece.axis)
            made[piece.tensor] = (np.exp(tensor) if piece.tensor.endswith("running_var") else tensor).astype(np.float32)
            start = stop
        return made


def cuts(weights: Mapping[str, np.ndarray], kinds: list[str], heads: int | None) -> list[tuple[Cut, np.ndarray]]:
    """Every sort of token of `kinds` that a network has, and its tokens ``l n d``, pieces of mean square 1.

    heads: attention heads of a block, which its tensors do not tell.
    Raises FitError for an unknown kind, kinds that cut the same tensor, and a network that has none of a kind.
    """
    found: list[Cut] = []
    for kind in kinds:
        check_choice("tokens", kind, KINDS, FitError)
        if kind == "head" and not heads:
            raise FitError("The tensors do not tell how many attention heads a block has: give heads=.")
        before = len(found)
        for pieces in KINDS[kind]:
            found += _find(weights, kind, pieces, heads)
        if len(found) == before:
            raise FitError(
                f"No two blocks of one shape can be cut into {kind} tokens: they need "
                f"{' or '.join(listing(piece.tensor for piece in pieces) for pieces in KINDS[kind])}."
            )
    used = Counter(f"{cut.blocks}{piece.tensor}" for cut in found for piece in cut.pieces)
    if twice := [name for name, times in used.items() if times > 1]:
        raise FitError(f"Tokens {' and '.join(kinds)} both cut {listing(twice, 3)}: give one of them.")
    made = []
    for cut in found:  # the blocks of a list that all of its cuts have
        shared = set.intersection(*(set(other.layers) for other in found if other.blocks == cut.blocks))
        if len(shared) > 1:
            made.append(_scaled(weights, replace(cut, layers=tuple(sorted(shared)))))
    return made


def _find(weights: Mapping[str, np.ndarray], kind: str, pieces: tuple[Piece, ...], heads: int | None) -> list[Cut]:
    suffix, blocks = f".{pieces[0].tensor}", dict[str, list[int]]()
    for name in weights:
        prefix, _, index = name.removesuffix(suffix).rpartition(".")
        if name.endswith(suffix) and index.isdecimal():
            blocks.setdefault(f"{prefix}." if prefix else "", []).append(int(index))
    found = []
    for prefix, layers in blocks.items():
        known = [piece for piece in pieces if f"{prefix}{layers[0]}.{piece.tensor}" in weights]  # biases may be missing
        if len([piece for piece in known if piece.tensor.endswith(".weight")]) < sum(
            piece.tensor.endswith(".weight") for piece in pieces
        ):
            continue
        shapes = {
            layer: tuple(tuple(weights[f"{prefix}{layer}.{piece.tensor}"].shape) for piece in known) for layer in layers
        }
        common = Counter(shapes.values()).most_common(1)[0][0]
        alike = tuple(sorted(layer for layer in layers if shapes[layer] == common))
        if len(alike) > 1:
            count = heads if kind == "head" and heads else common[0][known[0].axis]
            if any(shape[piece.axis] % (piece.parts * count) for piece, shape in zip(known, common)):
                raise FitError(f"{prefix}*.{known[0].tensor} cannot be cut into {count} {kind} tokens.")
            found.append(Cut(kind, prefix, tuple(known), alike, common, count))
    return found


def _scaled(weights: Mapping[str, np.ndarray], cut: Cut) -> tuple[Cut, np.ndarray]:
    scales, tokens = [], []
    for layer in cut.layers:
        parts = cut.take(weights, layer)
        scales.append(tuple(float(np.sqrt(np.square(part).mean())) or 1.0 for part in parts))
        tokens.append(np.concatenate([part / scale for part, scale in zip(parts, scales[-1])], 1))
    return replace(cut, scales=tuple(scales)), np.stack(tokens)
