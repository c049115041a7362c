"""TokenBank: what makes the layers of a network for any depth; numpy only."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FitError, check_choice, check_draws
from ..weights.files import save_tensors
from ..weights.named import digest
from .cutting import UNORDERED, Cut, ends
from .depths import counted, of_depth

FORMAT = "1"
BETWEEN = ("blend", "pick", "nearest")
WAVES = 3  # cosines of depth


def condition(depth: np.ndarray, family: int, families: int) -> np.ndarray:
    """``n -> n c``: depth (fraction of the network, 0 its start) as cosines, and which family, as one of `families`."""
    waves = np.cos(np.pi * depth[:, None] * np.arange(1, WAVES + 1))
    return np.concatenate([waves, np.broadcast_to(np.eye(families)[family], (len(depth), families))], 1)


@dataclass(frozen=True)
class Tokens:
    """One sort of token: how it was cut, its posterior, ``l n z`` mean and deviation, and its decoder.

    match: ``l n``, for each token of a layer the one of the next layer that is most like it.
    decoder: its arrays by name, shared by families of one token size; family: which of `families` this is to it.
    """

    cut: Cut
    mean: np.ndarray = field(repr=False)
    deviation: np.ndarray = field(repr=False)
    match: np.ndarray = field(repr=False)
    decoder: dict[str, np.ndarray] = field(repr=False)
    family: int = 0
    families: int = 1

    def decode(self, latents: np.ndarray, depth: float) -> np.ndarray:
        """``n z`` at a depth (fraction) -> tokens ``n d``: linear in latents and condition, plus one hidden layer."""
        known = condition(np.full(len(latents), depth), self.family, self.families)
        own, weights = np.concatenate([latents, known], 1), self.decoder
        bent = np.tanh(own @ weights["hidden.weight"].T + weights["hidden.bias"])
        return np.asarray(own @ weights["linear.weight"].T + weights["linear.bias"] + bent @ weights["bent.weight"].T)

    def layer(
        self, at: float, rng: np.random.Generator, temperature: float, source: str, between: str
    ) -> dict[str, np.ndarray]:
        """The tensors of a layer at `at`, counted in the network's own layers: 1.25 lies between layers 1 and 2."""
        if between == "nearest":
            at = float(round(at))
        last = len(self.mean) - 1
        low = min(int(at), max(last - 1, 0))
        share = at - low if last else 0.0
        mean, deviation = self.mean[low], self.deviation[low]
        if share:
            match = self.match[low]
            other, others = self.mean[low + 1][match], self.deviation[low + 1][match]
            if between == "pick":  # as many tokens of either layer as it is near: their sums mix as the layers would
                taken = rng.permutation(len(mean)) < round(share * len(mean))
                mean, deviation = np.where(taken[:, None], other, mean), np.where(taken[:, None], others, deviation)
            else:
                wanted = _norms(mean) * (1 - share) + _norms(other) * share
                mean = (1 - share) * mean + share * other
                mean = mean * wanted / _norms(mean).clip(min=1e-12)  # half of two orthogonal ones is not half as long
                deviation = (1 - share) * deviation + share * others
        if source == "prior":
            mean, deviation = np.zeros_like(mean), np.ones_like(mean)
        latents = mean + temperature * deviation * rng.standard_normal(mean.shape) if temperature else mean
        return self.cut.put(self.decode(latents, (at + 0.5) / (last + 1)), at)


def _norms(rows: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.norm(rows, axis=1, keepdims=True))


@dataclass(frozen=True)
class TokenBank:
    """A generator below whole layers, of networks of any depth and width of their lists of blocks.

    Args:
        tokens: by name, such as ``blocks.*.mlp neuron``.
        rest: all tensors of the network that the tokens do not cover.
        backbone: what the network is.
        fit: options and measures.
    """

    tokens: dict[str, Tokens]
    rest: dict[str, np.ndarray] = field(repr=False)
    backbone: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)

    @property
    def lists(self) -> dict[str, tuple[int, ...]]:
        """The lists of blocks whose length can be chosen -> the numbers of the blocks that can be many or few."""
        return {tokens.cut.blocks: tokens.cut.layers for tokens in self.tokens.values()}

    def depths(self, depth: int | Sequence[int] | None) -> dict[str, int]:
        """How many blocks each list gets.  Raises FitError for a depth that does not fit the lists."""
        return counted(self.lists, depth)

    def about(self, depth: int | Sequence[int] | None) -> dict[str, Any]:
        """The backbone of a network of another depth; without timm's name where its kwargs cannot say the depth."""
        return of_depth(self.backbone, self.depths(depth), self.depths(None), self.rest)  # no block is without a rest

    def generate(
        self, depth: int | Sequence[int] | None = None, temperature: float = 0.0, seed: int = 0,
        source: str = "posterior", between: str = "blend", rescale: bool = True,
    ) -> dict[str, np.ndarray]:  # fmt: skip
        """The complete state dict of a network with `depth` blocks (its own for None): name -> float32 array.

        Block j of D lies at depth (j + 1/2) / D.  Its tokens are those that the network has there: the posterior's
        means (`temperature` 0) or draws, or with ``source="prior"`` draws that know depth and family alone.
        between: a layer between two trained ones has their aligned tokens blended in latent space (``blend``), takes
        tokens of both (``pick``), or those of the ``nearest``.  What tokens do not cover is always the nearest layer's.
        rescale: each block adds as much less as there are more of them, as in a finer step of the same equation
        (Chen et al. 2018, https://arxiv.org/abs/1806.07366).
        Raises FitError for options out of range.
        """
        _check(temperature, source, between)
        counts, rng = self.depths(depth), np.random.default_rng(seed)
        made = {name: array.copy() for name, array in self.rest.items() if not name.startswith(tuple(counts))}
        for blocks, count in counts.items():
            layers = self.lists[blocks]
            kept, own = min(layers), len(layers)
            new = count - kept
            for index in range(count):
                at = 0.0 if index < kept else min(max((index - kept + 0.5) * own / new - 0.5, 0.0), own - 1.0)
                nearest = index if index < kept else layers[round(at)]
                begins = f"{blocks}{nearest}."
                rest = ((name, array) for name, array in self.rest.items() if name.startswith(begins))
                block = {name.removeprefix(begins): array for name, array in rest}
                if index >= kept:
                    for tokens in self.tokens.values():
                        if tokens.cut.blocks == blocks:
                            block |= tokens.layer(at, rng, temperature, source, between)
                    if rescale and new != own:
                        _rescale(block, own / new)
                made |= {f"{blocks}{index}.{name}": np.array(array, order="C") for name, array in block.items()}
        return made

    def save(self, path: str | Path) -> str:
        """Writes all of it as one safetensors file, atomically; returns its content hash."""
        arrays, described = {f"rest.{name}": array for name, array in self.rest.items()}, []
        decoders: list[dict[str, np.ndarray]] = []
        for index, tokens in enumerate(self.tokens.values()):
            if not any(tokens.decoder is known for known in decoders):
                decoders.append(tokens.decoder)
                arrays |= {f"decoder.{len(decoders) - 1}.{name}": array for name, array in tokens.decoder.items()}
            which = next(i for i, known in enumerate(decoders) if known is tokens.decoder)
            arrays |= {f"tokens.{index}.{name}": getattr(tokens, name) for name in ("mean", "deviation", "match")}
            described.append({"cut": asdict(tokens.cut), "decoder": which, "family": tokens.family,
                              "families": tokens.families})  # fmt: skip
        content = {"tokens": described, "backbone": self.backbone, "fit": self.fit}
        found = content_hash(content, arrays)
        text = json.dumps(content, sort_keys=True)
        save_tensors(path, arrays, {"kind": "tokens", "format": FORMAT, "content": text, "hash": found})
        return found


def content_hash(content: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    return digest(content, *(part for name in sorted(arrays) for part in (name, arrays[name])))


def _check(temperature: float, source: str, between: str) -> None:
    check_draws(temperature, source, FitError)
    check_choice("between", between, BETWEEN, FitError)


def _rescale(block: dict[str, np.ndarray], factor: float) -> None:
    """Multiplies what the branches of a block add."""
    block.update({name: (block[name] * factor).astype(block[name].dtype) for name in ends(block)})


def matched(mean: np.ndarray, kind: str) -> np.ndarray:
    """``l n z -> l n``: the assignment of each layer's tokens to the next one's with the largest sum of cosines.

    Tokens that have a place of their own (of a kind that is not unordered) stay there.
    """
    own = np.tile(np.arange(mean.shape[1]), (len(mean), 1))
    if kind in UNORDERED:
        from scipy.optimize import linear_sum_assignment

        unit = mean / np.linalg.norm(mean, axis=2, keepdims=True).clip(min=1e-12)
        for layer in range(len(mean) - 1):
            own[layer] = linear_sum_assignment(-unit[layer] @ unit[layer + 1].T)[1]
    return own
