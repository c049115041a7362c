"""Any source of weights -> families, and -> a bank."""

from collections.abc import Iterable
from typing import Any

from . import grouping, sources
from .bank import TemplateBank
from .mimicry import fit
from .tokens.bank import TokenBank


def families(source: Any, by: str = "index") -> grouping.Families:
    """Every tensor of a source in exactly one family, by name; see `recast_gen.grouping.families`."""
    return sources.read(source).families(by)


def mimic(
    source: Any,
    families: Iterable[str] | None = None,
    groups: int | list[list[int]] | None = None,
    timm_kwargs: dict | None = None,
    **settings,
) -> TemplateBank:
    """Neural Mimicry: a bank that rebuilds the chosen families of a source.

    source: a model, a mapping of names to tensors, or the path of a store or checkpoint.  families: globs; every
    shareable family when not given.  groups: how many a family is cut into (one when not given),
    or positions along depth, group by group.
    timm_kwargs: what a timm model was made with besides its name and class count, so that the bank can say it.
    settings: see `recast_gen.mimicry.fit.mimic`; ``templates="full", gauge="svd", solver="closed_form", seed=0``.
    """
    return fit.mimic(sources.read(source, timm_kwargs), families=families, groups=groups, **settings)


def mimic_vae(
    source: Any,
    families: Iterable[str] | None = None,
    groups: int | None = None,
    timm_kwargs: dict | None = None,
    **settings,
) -> TemplateBank:
    """The VAE template generator: like `mimic`, and the bank can be sampled.

    settings: see `recast_gen.mimicry.fit.mimic_vae`; ``templates="full", solver="vae", seed=0`` and the solver's,
    such as ``epochs=60, beta=1.0``.
    """
    return fit.mimic_vae(sources.read(source, timm_kwargs), families=families, groups=groups, **settings)


def mimic_tokens(
    source: Any, tokens: str | Iterable[str] = "neuron", timm_kwargs: dict | None = None, **settings
) -> TokenBank:
    """A generator below whole layers: ``rg.generate(bank, depth=8)`` makes a network of another depth.

    tokens: ``neuron``, ``head``, ``tile``, or several.  settings: see `recast_gen.tokens.fit.mimic_tokens`.
    """
    from .tokens.fit import mimic_tokens

    weights = sources.read(source, timm_kwargs)
    if "heads" not in settings:
        settings["heads"] = sources.heads(weights.backbone)
    return mimic_tokens(weights, tokens=tokens, **settings)
