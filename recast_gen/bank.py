"""TemplateBank: frozen templates, the coefficients that rebuild the original, and the rest of the backbone."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from . import store
from .errors import FitError, nearest
from .weights import Weights, digest, dtype_of


def mix(coefficients, templates):
    """Weight ``o ...`` of one layer from coefficients ``s b t`` and templates ``t o ...``.

    Output block b (of b equal blocks along o) is ``mean_s sum_t c[s, b, t] * T[t, block b]``: RECAST eq. 2
    (Tasnim & Plummer, ICLR 2025, https://arxiv.org/abs/2411.16870), with blocks added here.  Takes numpy and torch.
    """
    _, blocks, count = coefficients.shape
    pieces = templates.reshape(count, blocks, -1).swapaxes(0, 1)  # b t n
    return (coefficients.mean(0)[:, None, :] @ pieces).reshape(templates.shape[1:])


def project(weight: np.ndarray, templates: np.ndarray, resolution: int = 1) -> np.ndarray:
    """Coefficients ``1 b t`` (float32) whose `mix` is nearest to weight ``o ...`` in least squares."""
    pieces = templates.astype(np.float64).reshape(len(templates), resolution, -1).swapaxes(0, 1)  # b t n
    target = weight.astype(np.float64).reshape(resolution, -1, 1)
    gram = pieces @ pieces.swapaxes(1, 2)
    solved = np.linalg.pinv(gram, hermitian=True) @ (pieces @ target)
    return solved[None, :, :, 0].astype(np.float32)


@dataclass(frozen=True)
class Group:
    """Consecutive layers of one family and the templates they share.

    names: tensor names in depth order.  templates: ``t o ...`` float32.  coefficients: ``l s b t`` float32, b = 1.
    dtype: of the original tensors.  certificate: how good the fit is.  random: how many of the last templates come
    from `seed`.  posterior: ``2 l t`` mean and standard deviation of the VAE's coefficients, or None.
    """

    family: str
    names: tuple[str, ...]
    templates: np.ndarray
    coefficients: np.ndarray
    dtype: str
    certificate: dict
    random: int = 0
    seed: int = 0
    posterior: np.ndarray | None = None

    def __iter__(self) -> Iterator[tuple[str, np.ndarray]]:
        return iter(zip(self.names, self.coefficients))


def random_templates(shape: tuple[int, ...], scale: float, seed: int) -> np.ndarray:
    """Templates of random signs times `scale` (float32), the same bits on every machine.

    A bit generator's raw stream is fixed by numpy's policy (NEP 19), that of its normal variates is not.
    """
    size = int(np.prod(shape))
    bits = np.unpackbits(np.random.PCG64(seed).random_raw(-(-size // 64)).astype("<u8").view(np.uint8), count=size)
    return (np.float32(scale) * (2 * bits.astype(np.float32) - 1)).reshape(shape)


@dataclass(frozen=True)
class TemplateBank:
    """Groups by (family, index), every other tensor of the backbone, and what the backbone is."""

    groups: dict[tuple[str, int], Group]
    rest: dict[str, np.ndarray]
    backbone: dict = field(default_factory=dict)
    fit: dict = field(default_factory=dict)

    @property
    def certificate(self) -> dict[tuple[str, int], dict]:
        """Per group: ``relative_error, bound, gap`` (fractions), ``cosine`` per layer, bytes and coefficient counts."""
        return {key: group.certificate for key, group in self.groups.items()}

    @cached_property
    def layers(self) -> dict[str, Group]:
        """The group of every tensor that the bank generates, in the bank's order."""
        return {name: group for group in self.groups.values() for name in group.names}

    def base(self) -> Weights:
        """The backbone as the bank rebuilds it: every tensor, in its own dtype."""
        rebuilt = {
            name: mix(c, group.templates).astype(dtype_of(group.dtype))
            for group in self.groups.values()
            for name, c in group
        }
        return Weights(rebuilt | self.rest, self.backbone)

    @cached_property
    def hash(self) -> str:
        """Content hash; task files name it."""
        arrays, attributes = self._pack()
        return store.fingerprint("bank", arrays, attributes)

    def save(self, path: str | Path) -> str:
        """Writes the bank to a zarr directory, atomically; returns its hash."""
        return store.save(path, "bank", *self._pack())

    def _pack(self) -> tuple[dict[str, np.ndarray], dict]:
        arrays, described = {}, []
        for family in dict.fromkeys(family for family, _ in self.groups):
            members = [group for group in self.groups.values() if group.family == family]
            arrays[f"templates.{family}"] = np.concatenate(
                [group.templates[: len(group.templates) - group.random] for group in members]
            )
            described += [
                {
                    "family": family, "names": group.names, "dtype": group.dtype, "certificate": group.certificate,
                    "coefficients": group.coefficients.shape, "random": group.random, "seed": group.seed,
                    "scale": float(np.abs(group.templates[-1]).flat[0]) if group.random else 0.0,
                    "posterior": group.posterior is not None,
                }
                for group in members
            ]  # fmt: skip
        arrays["coefficients"] = _flat(group.coefficients for group in self.groups.values())
        posteriors = [group.posterior for group in self.groups.values() if group.posterior is not None]
        if posteriors:
            arrays["posterior"] = _flat(posteriors)
        index = [[name, tensor.dtype.name, tensor.shape] for name, tensor in self.rest.items()]
        for dtype in sorted({dtype for _, dtype, _ in index}):
            arrays[f"rest.{dtype}"] = _flat(tensor for tensor in self.rest.values() if tensor.dtype.name == dtype)
        return arrays, {"backbone": self.backbone, "fit": self.fit, "groups": described, "rest": index}


def _flat(arrays) -> np.ndarray:
    return np.concatenate([array.reshape(-1) for array in arrays])[None]


def _take(flat: np.ndarray, shapes) -> Iterator[np.ndarray]:
    start = 0
    for shape in shapes:
        stop = start + int(np.prod(shape))
        yield flat[0, start:stop].reshape(shape)
        start = stop


def load_bank(path: str | Path) -> TemplateBank:
    """Reads and verifies a bank.  Raises StoreError when it is missing, foreign or damaged."""
    arrays, about, found = store.load(path, "bank")
    described = about["groups"]
    coefficients = _take(arrays["coefficients"][...], [entry["coefficients"] for entry in described])
    posteriors = [entry for entry in described if entry["posterior"]]
    posterior = _take(
        arrays["posterior"][...] if posteriors else np.empty((1, 0)),
        [(2, entry["coefficients"][0], entry["coefficients"][3]) for entry in posteriors],
    )
    groups, templates, start = {}, {}, {}
    for entry, base in zip(described, coefficients):
        family = entry["family"]
        if family not in templates:
            templates[family], start[family] = arrays[f"templates.{family}"][...], [0]
        stored = base.shape[3] - entry["random"]
        own = templates[family][sum(start[family]) : sum(start[family]) + stored]
        if entry["random"]:
            drawn = random_templates((entry["random"], *own.shape[1:]), entry["scale"], entry["seed"])
            own = np.concatenate([own, drawn])
        groups[family, len(start[family]) - 1] = Group(
            family, tuple(entry["names"]), own, base, entry["dtype"], entry["certificate"], entry["random"],
            entry["seed"], next(posterior) if entry["posterior"] else None,
        )  # fmt: skip
        start[family].append(stored)
    rest = {}
    for dtype in {dtype for _, dtype, _ in about["rest"]}:
        mine = [(name, shape) for name, of, shape in about["rest"] if of == dtype]
        rest |= zip([name for name, _ in mine], _take(arrays[f"rest.{dtype}"][...], [shape for _, shape in mine]))
    rest = {name: rest[name] for name, _, _ in about["rest"]}
    bank = TemplateBank(groups, rest, about["backbone"], about["fit"])
    bank.__dict__["hash"] = found  # what was verified need not be computed again
    return bank


def extend(bank: TemplateBank, templates: int, source: str = "random", seed: int = 0) -> TemplateBank:
    """A bank with `templates` more templates in every group, base coefficients 0: it rebuilds the same weights.

    ``random`` templates have the scale of their group and are stored as their seed alone.
    Raises FitError for another source, and for a bank that already has random templates.
    """
    if source != "random":
        raise FitError(f"No template source {source!r}.{nearest(source, ['random'])} There is: random.")
    if templates < 1:
        raise FitError(f"{templates} more templates cannot be: give 1 or more.")
    groups = {}
    for index, (key, group) in enumerate(bank.groups.items()):
        if group.random:
            raise FitError(f"Group {key} already has {group.random} random templates: extend the bank it came from.")
        scale = float(np.sqrt(np.mean(np.square(group.templates, dtype=np.float64))))
        own_seed = int(digest([seed, index])[:8], 16)
        drawn = random_templates((templates, *group.templates.shape[1:]), np.float32(scale), own_seed)
        layers, sets, blocks, _ = group.coefficients.shape
        zeros = np.zeros((layers, sets, blocks, templates), np.float32)
        count = len(group.templates) + templates
        certificate = group.certificate | {"templates": count, "coefficients": layers * sets * count}
        groups[key] = replace(
            group, certificate=certificate, templates=np.concatenate([group.templates, drawn]), random=templates,
            seed=own_seed, coefficients=np.concatenate([group.coefficients, zeros], axis=3), posterior=None,
        )  # fmt: skip
    return TemplateBank(groups, bank.rest, bank.backbone, bank.fit | {"extended": {"random": templates, "seed": seed}})
