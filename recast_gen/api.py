"""Any source of weights -> families, and -> a bank."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .bank import growth
from .bank.bank import TemplateBank, left_over
from .bank.population import Population
from .bank.saved import opened
from .bank.task import Task
from .bank.tokens import TokenBank
from .errors import FitError, listing
from .mimicry import fit
from .mimicry.grouping import Grouping
from .mimicry.norms import with_norms
from .weights import networks, sources
from .weights.families import Families
from .weights.named import SplitQkv, Weights
from .weights.selection import select


def families(source: Any, by: str = "index", split_qkv: bool = False, weights: str | None = None) -> Families:
    """Every tensor of a source in exactly one family, by name; see `recast_gen.weights.families.families`.

    Args:
        source: a model, a mapping of names to tensors, or the path of a store or checkpoint.
        by: what makes a family: ``index``, one name without its depth and one shape, or ``shape`` alone.
        split_qkv: a fused qkv is three families, ``blocks.*.attn.qkv#q.weight`` and so on; see
            `recast_gen.weights.qkv`.
        weights: which set of a checkpoint that has several: ``raw``, ``ema`` or its name; timm's choice when not
            given.
    Returns:
        Name -> `Family`, whose layers are a stack ``l ...``; no values are read.
    Raises:
        SourceError: this is no source of weights.
        FamilyError: an unknown `by`.
    """
    return _read(source, split_qkv, weights=weights).families(by)


def _read(source: Any, split_qkv: bool, timm_kwargs: dict | None = None, weights: str | None = None) -> Weights:
    found = sources.read(source, timm_kwargs, weights)
    return SplitQkv(found) if split_qkv else found


@dataclass(frozen=True, kw_only=True)
class Asked(Grouping):
    """What `mimic` and `mimic_vae` take besides their solver's settings; `Grouping` has the other half.

    Args:
        timm_kwargs: what a timm model was made with besides its name and class count, so that the bank can say it.
        norms: ``affine``, ``scales``, ``shifts`` or ``shared``: the bank generates normalisation layers too, and them
            alone where `families` is an empty list; see `with_norms`.
        split_qkv: as in `families`.
        weights: as in `families`.
    """

    timm_kwargs: dict | None = None
    norms: str = "none"
    split_qkv: bool = False
    weights: str | None = None

    def __post_init__(self):
        if not isinstance(self.families, str | Mapping | None):
            object.__setattr__(self, "families", list(self.families))  # it may be read once alone

    def read(self, source: Any) -> Weights:
        """The weights of a source, as they are asked for."""
        return _read(source, self.split_qkv, self.timm_kwargs, self.weights)


def mimic(
    source: Any,
    families: Iterable[str] | None = None,
    groups: int | list[list[int]] | None = None,
    *,
    whiten: Any = None,
    **settings: Any,
) -> TemplateBank:
    """Neural Mimicry: a bank that rebuilds the chosen families of a source.

    Args:
        source: as in `families`; a path is read a group at a time, and again when the bank is used or saved.
        families: globs; every shareable family when not given.
        groups: a count, which each family is cut into at most, or lists of positions along the depth; one group when
            not given.
        whiten: calibration images ``n c h w`` as the model wants them, or batches of these, or what `moments` made of
            them.  The error is then that of the layers' outputs on these images.
        **settings: the fields of `recast_gen.mimicry.grouping.Grouping` and of `Asked`: ``templates="full",
            group_size, group_by, by, norms="none", split_qkv=False, timm_kwargs, weights``; and those of
            `recast_gen.mimicry.fit.mimic`: ``gauge="svd", solver="closed_form", seed=0``, and ``layout="auto",
            budget=0.5`` to compress.
    Returns:
        A bank: templates ``t o ...`` and coefficients ``l s b t`` of every group, and all other tensors.  Section 3 of
        RECAST, https://arxiv.org/abs/2411.16870; here solved in closed form.
    Raises:
        SourceError: this is no source of weights.
        FamilyError: the source has no such families or groups.
        FitError: other settings.
    """
    asked, others = Asked.of({"families": families, "groups": groups, **settings})
    found = asked.read(source)
    if asked.norms != "none" and asked.families == []:
        return with_norms(TemplateBank({}, left_over(found), found.backbone), asked.norms)
    if whiten is not None:
        chosen = (asked.families, asked.by, asked.split_qkv, asked.weights)
        others["moments"] = whiten if isinstance(whiten, Mapping) else moments(source, whiten, *chosen)
    return with_norms(fit.mimic(found, asked, **others), asked.norms)


def moments(
    source: Any,
    images: Any,
    families: Iterable[str] | None = None,
    by: str = "index",
    split_qkv: bool = False,
    weights: str | None = None,
) -> dict[str, np.ndarray]:
    """Second moments of the layers' inputs on calibration images, as `mimic` takes them for `whiten`.

    Args:
        source: a model, or what says which model it is.
        images: ``n c h w`` as the model wants them, or batches of these.
        families: as in `mimic`, and so are `by`, `split_qkv` and `weights`.
    Returns:
        Weight name -> second moment ``i i`` (float64).
    Raises:
        SourceError: weights without their model.
        FitError: as `recast_gen.mimicry.moments.moments`.
    """
    from .mimicry.moments import moments

    found = _read(source, split_qkv, weights=weights)
    model = source if hasattr(source, "state_dict") else networks.rebuild(found)
    chosen = select(found.families(by), families)
    return moments(model, images, [name for family in chosen.values() for name in family.names])


def mimic_vae(
    source: Any = None, families: Iterable[str] | None = None, groups: int | list[list[int]] | None = None, *,
    tasks: str | Path | None = None, bank: TemplateBank | str | Path | None = None, **settings: Any,
) -> TemplateBank | Population:  # fmt: skip
    """The VAE template generator: like `mimic`, and the bank can be sampled; of many networks, a population.

    Args:
        source: as in `mimic`, and so are `families` and `groups`.  Or a list of two or more such sources of one
            architecture, or a glob of their files.
        **settings: the fields of `recast_gen.mimicry.grouping.Grouping` and of `Asked`, as in `mimic`; and those of
            `recast_gen.mimicry.fit.mimic_vae`: ``solver="vae", seed=0``, and the solver's, such as ``epochs=60,
            beta=1.0``.  Of many networks those of `recast_gen.mimicry.population.fit.mimic_population`:
            ``aligned=True, templates="full", solver="ppca", decoder="linear", prior="normal"``.
        tasks: in place of a source, a folder of task files, whose coefficients are the population; `bank`: theirs, or
            its path.  Settings are those of `recast_gen.mimicry.population.tasks.mimic_tasks`.
    Returns:
        A bank; of many networks a population, whose samples are complete networks; of tasks one whose samples are
        coefficients.
    Raises:
        RecastError: as `mimic`; FitError for networks that are no population.
    """
    if tasks is not None:
        if source is not None or families or groups or bank is None:
            raise FitError("tasks= is in place of a source and its families, and needs the bank of the tasks: bank=.")
        from .mimicry.population.tasks import mimic_tasks

        return mimic_tasks(bank, tasks, **settings)
    if source is None or bank is not None:
        raise FitError("Give a source; or tasks=, a folder of task files, and their bank=.")
    asked, others = Asked.of({"families": families, "groups": groups, **settings})
    if not (many := sources.several(source)):
        return with_norms(fit.mimic_vae(asked.read(source), asked, **others), asked.norms)
    from .mimicry.population.fit import mimic_population

    unused = {word: getattr(asked, word) for word in ("families", "groups", "group_size", "split_qkv")}
    unused["norms"] = asked.norms != "none"
    unused["templates of each family"] = isinstance(asked.templates, Mapping)
    if given := [word for word, value in unused.items() if value]:
        raise FitError(f"{listing(given)} are of one network's layers; a population has whole networks: leave out.")
    weights = {name: asked.read(each) for name, each in many.items()}
    first = next(iter(many.values()))
    model = first if hasattr(first, "named_modules") else None
    return mimic_population(weights, model, **{"templates": asked.templates} | others)


def mimic_tokens(
    source: Any,
    tokens: str | Iterable[str] = "neuron",
    timm_kwargs: dict | None = None,
    weights: str | None = None,
    **settings,
) -> TokenBank:
    """A generator below whole layers: ``rg.generate(bank, depth=8)`` makes a network of another depth.

    Args:
        source: as in `families`, and so is `weights`.
        tokens: ``neuron``, ``head``, ``tile``, or several.
        timm_kwargs: as in `mimic`.
        **settings: those of `recast_gen.mimicry.tokens.mimic_tokens`.
    Returns:
        A token bank: latents ``l n latent`` of every kind of token, a decoder, and all tensors that they do not cover.
    Raises:
        SourceError: this is no source of weights.
        FitError: settings out of range.
    """
    from .mimicry.tokens import mimic_tokens

    found = sources.read(source, timm_kwargs, weights)
    if "heads" not in settings:
        settings["heads"] = networks.heads(found.backbone)
    return mimic_tokens(found, tokens=tokens, **settings)


def grow(
    source: Any,
    depth: int | Sequence[int] | None = None,
    width: int = 1,
    how: str = "stack",
    onto: Any = None,
    share: float = 0.5,
    timm_kwargs: dict | None = None,
    heads: int | None = None,
) -> Weights:
    """A deeper or wider network, as a start for training.

    Args:
        source: as in `families`, and so is `onto`.
        depth, width, how, heads, share: as `recast_gen.bank.growth.grow` takes them.
        timm_kwargs: as in `mimic`.
    Returns:
        A mapping of tensor name -> array, with what is known of the network in ``backbone``; a source in its turn.
    Raises:
        SourceError: this is no source of weights.
        FitError: it cannot grow so.
    """
    found = sources.read(source, timm_kwargs)
    large = None if onto is None else sources.read(onto)
    return growth.grow(found, depth, width, how, _heads(found, width, heads), large, share)


def coalesce(
    source: Any,
    depth: int | Sequence[int] | None = None,
    width: int = 1,
    timm_kwargs: dict | None = None,
    heads: int | None = None,
) -> Weights:
    """A smaller network of means of neighbours, which `grow` with ``onto`` leads back to its size.

    Args:
        source, depth, width, timm_kwargs, heads: as in `grow`.
    Returns:
        As `grow`.
    Raises:
        RecastError: as `grow`.
    """
    found = sources.read(source, timm_kwargs)
    return growth.coalesce(found, depth, width, _heads(found, width, heads))


def _heads(found: Weights, width: int, heads: int | None) -> int | None:
    """Attention heads of a block, where a width needs them: to find them a network is made."""
    return heads or (networks.heads(found.backbone) if width != 1 else None)


def project(
    bank: TemplateBank | str | Path, source: Any, resolution: Any = 1, head: str | None = None,
    weights: str | None = None,
) -> Task:  # fmt: skip
    """A fine-tuned network as a task of the bank of its backbone: the nearest coefficients, and its head.

    Args:
        bank: a bank or its path.
        source: the fine-tuned network: a model, a path, or a mapping of tensors.
        resolution: as `rg.attach` takes it; ``head`` needs a live model, or a bank that says how to make one.
        head: see `recast_gen.mimicry.projection.project`.
        weights: as in `families`.
    Returns:
        A task, which `recast_gen.bank.taskfile.write` writes; ``about["projection"]["kept"]`` is the share of the
        change that it keeps.
    Raises:
        SourceError for what is no source of weights, FitError for a network that is not of that backbone.
    """
    from .mimicry.projection import project

    known = opened(bank)
    if "head" in (resolution.values() if isinstance(resolution, Mapping) else [resolution]):
        resolution = _counted(known, source, resolution)
    return project(known, sources.read(source, weights=weights), resolution, head)


def _counted(bank: TemplateBank, source: Any, resolution: Any) -> dict[str, int]:
    """Family -> blocks, of a resolution that depends on a model's attention heads."""
    import torch

    from .model.resolution import blocks

    model = source
    if not hasattr(source, "named_modules"):
        about = bank.backbone
        if "timm_model" not in about:
            raise FitError("resolution='head': the bank does not say which model it is of; give a count, or the model.")
        with torch.device("meta"):
            model = networks.create(about["timm_model"], about.get("timm_kwargs", {}))
    counts = blocks(model, bank, resolution)
    return {name: counts[family.names[0]] for name, family in bank.families.items()}
