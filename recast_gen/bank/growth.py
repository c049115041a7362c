"""A network's weights as those of a deeper or wider one, or of a smaller one; numpy only."""

from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import FitError, check_choice
from ..weights.named import Weights
from .cutting import LAST_NORMS, OUTPUTS
from .depths import Lists, counted, lists_of, of_depth
from .widths import wider

WAYS = ("stack", "repeat", "identity")
GATES = ("ls1.gamma", "ls2.gamma", "gamma_1", "gamma_2", "gamma")  # layer scales, as timm calls them


def grow(
    weights: Weights, depth: int | Sequence[int] | None = None, width: int = 1, how: str = "stack",
    heads: int | None = None, onto: Mapping[str, np.ndarray] | None = None, share: float = 0.5,
) -> Weights:  # fmt: skip
    """The weights of a deeper or wider network, from those of a trained one, as a start for training.

    Args:
        weights: of a network whose blocks are in lists (``blocks.0.``, ``layer1.0.``).
        depth: blocks of each list, or of the only one; its own for None.
        width: so many times as many channels, hidden units and attention heads; each is copied, and what reads the
            copies divides by their number, so that the outputs stay the same.  Vision transformers and residual
            networks of convolutions, with timm's names.
        how: ``stack``, the whole stack of blocks after itself: G_stack (Du et al., 2024,
            https://arxiv.org/abs/2405.15319).  ``repeat``, each block beside its copies: de-coalescing (Zou et al.,
            2024, https://arxiv.org/abs/2404.07999).  ``identity``, as ``repeat``, but copies add nothing to the
            residual stream at first, as their layer scales, last projections or last norms are 0: outputs stay the
            same, but for blocks whose norms come after what they add.
        heads: attention heads of a block, for `width`, where the network does not say them.
        onto: a network of the grown shapes.  The result lies at `share` (fraction) of the way from it to the grown
            weights, as in a multi-level training, where it is the large network that `coalesce` made smaller.
    Raises:
        FitError: no such blocks, fewer than there are, layers that cannot be wider, or `onto` of other shapes.
    """
    check_choice("way to grow", how, WAYS, FitError)
    lists = lists_of(weights)
    own, counts = counted(lists, None), counted(lists, depth)
    made = _besides(weights, lists)
    for blocks, layers in lists.items():
        kept, known = min(layers), len(layers)
        new = counts[blocks] - kept
        if new < known:
            raise FitError(f"depth={counts[blocks]} for {blocks}*: it has {own[blocks]} blocks; rg.coalesce has fewer.")
        for index in range(counts[blocks]):
            place = (index - kept) % known if how == "stack" else (index - kept) * known // new
            source = index if index < kept else layers[place]
            block = _block(weights, f"{blocks}{source}.")
            if how == "identity" and index > kept and (index - 1 - kept) * known // new == place:
                _silence(block, blocks)
            made |= {f"{blocks}{index}.{name}": array for name, array in block.items()}
    grown = wider(Weights(made, of_depth(weights.backbone, counts, own, weights)), width, heads)
    return grown if onto is None else _between(onto, grown, share)


def coalesce(
    weights: Weights, depth: int | Sequence[int] | None = None, width: int = 1, heads: int | None = None
) -> Weights:
    """The weights of a smaller network: means of neighbouring blocks, channels, hidden units and attention heads.

    The downward half of a multi-level training (https://arxiv.org/abs/2404.07999); `grow` with ``how="repeat"`` is the
    way back, and its `onto` mixes what was trained small into the large network.

    Args:
        depth: blocks of each list, or of the only one; its own for None.
        width: a channel, hidden unit or head for so many.  What reads them adds up over them.
        heads: as in `grow`.
    Raises:
        FitError: no such blocks, more than there are, or widths that do not divide.
    """
    lists = lists_of(weights)
    own, counts = counted(lists, None), counted(lists, depth)
    made = _besides(weights, lists)
    for blocks, layers in lists.items():
        kept, known = min(layers), len(layers)
        new = counts[blocks] - kept
        if new > known:
            raise FitError(f"depth={counts[blocks]} for {blocks}*: it has {own[blocks]} blocks; rg.grow has more.")
        for index in range(counts[blocks]):
            places = (
                [index] if index < kept else [n for at, n in enumerate(layers) if at * new // known == index - kept]
            )
            parts = [_block(weights, f"{blocks}{place}.") for place in places]
            for name, array in parts[0].items():
                mean = np.mean([part[name] for part in parts], 0).astype(array.dtype)
                made[f"{blocks}{index}.{name}"] = mean if len(parts) > 1 else array
    return wider(Weights(made, of_depth(weights.backbone, counts, own, weights)), width, heads, narrower=True)


def _between(start: Mapping[str, np.ndarray], end: Weights, share: float) -> Weights:
    """The weights at `share` of the way from one network to another; integers are the first's."""
    if not 0 <= share <= 1:
        raise FitError(f"share={share}: expected a fraction from 0 to 1.")
    shapes = [{name: np.shape(array) for name, array in each.items()} for each in (start, end)]
    if shapes[0] != shapes[1]:
        unlike = next(name for name in {**shapes[0], **shapes[1]} if shapes[0].get(name) != shapes[1].get(name))
        raise FitError(f"{unlike} is {shapes[0].get(unlike)} in one network and {shapes[1].get(unlike)} in the other.")
    made = {}
    for name, array in ((name, np.asarray(array)) for name, array in start.items()):
        mixed = array if array.dtype.kind in "biu" else (1 - share) * array + share * end[name]
        made[name] = mixed.astype(array.dtype)
    return Weights(made, end.backbone)


def _besides(weights: Weights, lists: Lists) -> dict[str, np.ndarray]:
    return {name: np.array(array) for name, array in weights.items() if not name.startswith(tuple(lists))}


def _block(weights: Weights, begins: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(begins): np.array(weights[name]) for name in weights if name.startswith(begins)}


def _silence(block: dict[str, np.ndarray], blocks: str) -> None:
    """Makes a residual block add nothing."""
    last = next((norm for norm in LAST_NORMS if f"{norm}.weight" in block), None)
    if "attn.logit_scale" in block:
        raise FitError(f"Blocks {blocks}* have their norms after what they add, so that no zeros silence them.")
    gates = [name for name in GATES if name in block]
    ends = gates or ((f"{last}.weight", f"{last}.bias") if last else [name for name in OUTPUTS if name in block])
    if not ends:
        raise FitError(f"Blocks {blocks}* have no layer scale, projection or norm at their end that this knows: use "
                       "'stack' or 'repeat'.")  # fmt: skip
    for name in ends:
        block[name] = np.zeros_like(block[name])
