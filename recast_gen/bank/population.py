"""Population: networks of one architecture as a mean, templates and a code each; draws are complete networks."""

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FitError, check_count, check_draws, listing
from ..weights import store
from ..weights.dtypes import dtype_of
from ..weights.files import Stack
from ..weights.named import Weights
from .bank import remember
from .block import Block
from .conditioning import condition

STATISTICS = ("running_mean", "running_var")  # of batch norms: a draw has other ones than any original


@dataclass(frozen=True)
class Population:
    """Networks of one architecture, each a code; the prior of codes draws new ones.

    Args:
        blocks: by name, what makes tensors of codes.
        rest: every tensor that blocks do not make.
        shapes: name -> (shape, dtype name) of every tensor of a network, in its order.
        backbone: what the architecture is.
        fit: options and measures.
        model: the architecture, where it was given as a live one; what the backbone says otherwise.  It is not saved.
    """

    blocks: dict[str, Block]
    rest: dict[str, np.ndarray] = field(repr=False)
    shapes: dict[str, tuple[tuple[int, ...], str]] = field(repr=False)
    backbone: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)
    model: Any = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        """How many networks it was fitted to."""
        return int(next(iter(self.blocks.values())).posterior.shape[1])

    @property
    def latents(self) -> int:
        """Length of a code, of all blocks together."""
        return sum(block.latents for block in self.blocks.values())

    @property
    def statistics(self) -> list[str]:
        """Tensors of batch norms that no code makes, and that images tell."""
        return [name for name in self.rest if name.rpartition(".")[2] in STATISTICS]

    def codes(self, noise: np.ndarray) -> np.ndarray:
        """Codes ``n t`` that the prior has at normal noise ``n t``."""
        pairs = zip(self.blocks.values(), self._split(noise))
        return np.concatenate([block.flow.codes(own) if block.flow else own for block, own in pairs], 1)

    def noise(self, codes: np.ndarray) -> np.ndarray:
        """The noise ``n t`` at which the prior has these codes ``n t``."""
        pairs = zip(self.blocks.values(), self._split(codes))
        return np.concatenate([block.flow.noise(own)[0] if block.flow else own for block, own in pairs], 1)

    def _split(self, codes: np.ndarray) -> list[np.ndarray]:
        """Of each block."""
        return np.split(codes, np.cumsum([block.latents for block in self.blocks.values()])[:-1], 1)

    def network(self, code: np.ndarray) -> dict[str, np.ndarray]:
        """The state dict of a code; see `networks`."""
        return self.networks(code[None])[0]

    def networks(self, codes: np.ndarray) -> list[dict[str, np.ndarray]]:
        """State dicts, each tensor in its own dtype; statistics of batch norms are the first original's.

        Args:
            codes: ``n t``, all blocks' codes one after the other.
        """
        made: list[dict[str, np.ndarray]] = [{} for _ in codes]
        for (which, block), own in zip(self.blocks.items(), self._split(codes)):
            for network, flat in zip(made, block.flat(own, self._rows[which])):
                network |= self._cut(block, flat)
        return [self._whole(network) for network in made]

    def _cut(self, block: Block, flat: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """The tensors of a block that lie one after the other."""
        at = 0
        for name in block.names:
            shape, dtype = self.shapes[name]
            size = int(np.prod(shape, dtype=np.int64))
            yield name, flat[at : at + size].reshape(shape).astype(dtype_of(dtype), copy=False)
            at += size

    def _whole(self, made: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """A network in its own order, with what codes do not make of it."""
        made = made | {name: tensor.copy() for name, tensor in self.rest.items()}
        tied = {other: made[name].copy() for other, name in self.backbone.get("ties", {}).items()}
        return {name: made[name] for name in self.shapes} | tied

    @property
    def posterior(self) -> np.ndarray:
        """``2 n t``: mean and standard deviation of the code of each original, of all blocks one after the other."""
        return np.concatenate([block.posterior for block in self.blocks.values()], 2)

    @cached_property
    def _rows(self) -> dict[str, np.ndarray]:
        """Of each block; those that were opened are read and verified now."""
        return {which: np.asarray(block.rows[...]) for which, block in self.blocks.items()}

    def sample(
        self, n: int = 1, temperature: float = 1.0, seed: int = 0, source: str = "prior", images: Any = None,
        given: Mapping[str, float] | None = None,
    ) -> list[dict[str, np.ndarray]]:  # fmt: skip
        """See `recast_gen.bank.sampling.sample`."""
        check_count("n", n, FitError)
        check_draws(temperature, source, FitError)
        if self.statistics and images is None:
            raise FitError(
                f"{listing(self.statistics, 2)} are statistics that a drawn network has of its own: give some images "
                "(`images=`, `--images`), as the network wants them and without labels."
            )
        noise = temperature * np.random.default_rng(seed).standard_normal((n, self.latents))
        if given and source != "prior":
            raise FitError("`given` is of the prior; draws around originals have the labels of these: leave one out.")
        if given:
            known = self.noise(self.posterior[0])
            noise = condition(noise, known, self.fit.get("labels", {}), given, temperature, seed)
        if source == "posterior":
            mean, deviation = self.posterior
            which = np.arange(n) % len(self)
            codes = mean[which] + deviation[which] * noise
        else:
            codes = self.codes(noise)
        made = self.networks(codes)
        return list(self._settled(made, images)) if self.statistics else made

    def _settled(self, networks: list[dict[str, np.ndarray]], images: Any) -> Iterator[dict[str, np.ndarray]]:
        """The same networks with the statistics of their batch norms as they are on these images."""
        from ..weights.networks import fill, rebuild
        from ..weights.statistics import estimate
        from ..weights.tensors import to_numpy

        model = rebuild(Weights(networks[0], self.backbone)) if self.model is None else deepcopy(self.model)
        for network in networks:
            fill(model, network)
            estimate(model, images)
            state = model.state_dict()
            yield network | {name: np.array(to_numpy(name, state[name])) for name in network if name in self.rest}

    @cached_property
    def hash(self) -> str:
        """Content hash."""
        return store.fingerprint("population", *self._contents())

    def save(self, path: str | Path) -> str:
        """Writes it to a zarr directory, atomically; returns its content hash.

        Raises:
            StoreError: over a directory that is no store.
        """
        return remember(self, store.save(path, "population", *self._contents()))

    def _contents(self) -> tuple[dict[str, Stack], dict[str, Any]]:
        arrays: dict[str, Stack] = {}
        for name, block in self.blocks.items():
            arrays |= block.arrays(name)
        arrays |= {f"rest.{name}": tensor[None] for name, tensor in self.rest.items()}
        about = {
            "backbone": self.backbone, "fit": self.fit, "shapes": list(map(list, self.shapes.items())),
            "blocks": [[name, block.names] for name, block in self.blocks.items()], "rest": list(self.rest),
        }  # fmt: skip
        return arrays, about


def load_population(path: str | Path, model: Any = None) -> Population:
    """Opens a population that was saved; its templates are read and verified when a network is first drawn.

    Args:
        path: of its directory.
        model: a live network of its architecture, for batch norms where the file does not say how to make one.
    Returns:
        The population.
    Raises:
        StoreError: it is missing, foreign or damaged.
    """
    arrays, about, found = store.load(path, "population")
    blocks = {name: Block.of(names, name, arrays) for name, names in about["blocks"]}
    rest = {name: np.asarray(arrays[f"rest.{name}"][0]) for name in about["rest"]}
    shapes = {name: (tuple(shape), dtype) for name, (shape, dtype) in about["shapes"]}
    population = Population(blocks, rest, shapes, about["backbone"], about["fit"], model)
    remember(population, found)
    return population
