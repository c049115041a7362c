"""A network's weights as those of a deeper or wider one, or of a smaller one; numpy only."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..errors import FitError, check_choice
from ..weights.named import Weights
from .cutting import ends
from .depths import counted, lists_of, of_depth
from .widths import to_sum, wider

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
    Returns:
        Every tensor of the larger network, in its own dtype, with what is known of it in ``backbone``.
    Raises:
        FitError: no such blocks, fewer than there are, layers that cannot be wider, or `onto` of other shapes.
    """
    check_choice("way to grow", how, WAYS, FitError)

    def block(blocks: str, layers: Sequence[int], at: int, new: int) -> dict[str, np.ndarray]:
        known = len(layers)
        place = at % known if how == "stack" else at * known // new
        made = _block(weights, f"{blocks}{layers[place]}.")
        if how == "identity" and at and (at - 1) * known // new == place:
            _silence(made, blocks)
        return made

    grown = wider(_with_depth(weights, depth, block, deeper=True), width, heads)
    return grown if onto is None else _between(onto, grown, share)


def coalesce(
    weights: Weights, depth: int | Sequence[int] | None = None, width: int = 1, heads: int | None = None
) -> Weights:
    """The weights of a smaller network: means of neighbouring blocks, channels, hidden units and attention heads.

    The downward half of a multi-level training (https://arxiv.org/abs/2404.07999); `grow` with ``how="repeat"`` is the
    way back, and its `onto` mixes what was trained small into the large network.

    Args:
        weights: as in `grow`.
        depth: blocks of each list, or of the only one; its own for None.
        width: a channel, hidden unit or head for so many.  What reads them adds up over them.
        heads: as in `grow`.
    Returns:
        As `grow`, of the smaller network.
    Raises:
        FitError: no such blocks, more than there are, or widths that do not divide.
    """

    def block(blocks: str, layers: Sequence[int], at: int, new: int) -> dict[str, np.ndarray]:
        places = [layer for place, layer in enumerate(layers) if place * new // len(layers) == at]
        parts = [_block(weights, f"{blocks}{place}.") for place in places]
        if len(parts) == 1:
            return parts[0]
        return {name: _mean([part[name] for part in parts]) for name in parts[0]}

    return wider(_with_depth(weights, depth, block, deeper=False), width, heads, narrower=True)


def _mean(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Their mean in their dtype."""
    dtype = arrays[0].dtype
    return np.asarray(np.mean(arrays, 0, dtype=to_sum(dtype))).astype(dtype)


def _with_depth(
    weights: Weights, depth: int | Sequence[int] | None,
    block: Callable[[str, Sequence[int], int, int], dict[str, np.ndarray]], deeper: bool,
) -> Weights:  # fmt: skip
    """Weights with so many blocks in each list: those that are unlike the last ones as they are, then block by block.

    block: (the list, the numbers of its like blocks, which of the new ones, how many of them) -> its tensors.
    """
    lists = lists_of(weights)
    own, counts = counted(lists, None), counted(lists, depth)
    made = {name: np.array(array) for name, array in weights.items() if not name.startswith(tuple(lists))}
    for blocks, layers in lists.items():
        kept, new = min(layers), counts[blocks] - min(layers)
        if new < len(layers) if deeper else new > len(layers):
            other = "rg.coalesce has fewer" if deeper else "rg.grow has more"
            raise FitError(f"depth={counts[blocks]} for {blocks}*: it has {own[blocks]} blocks; {other}.")
        for index in range(counts[blocks]):
            begins = f"{blocks}{index}."
            found = _block(weights, begins) if index < kept else block(blocks, layers, index - kept, new)
            made |= {f"{begins}{name}": array for name, array in found.items()}
    return Weights(made, of_depth(weights.backbone, counts, own, weights))


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


def _block(weights: Weights, begins: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(begins): np.array(weights[name]) for name in weights if name.startswith(begins)}


def _silence(block: dict[str, np.ndarray], blocks: str) -> None:
    """Makes a residual block add nothing."""
    if "attn.logit_scale" in block:
        raise FitError(f"Blocks {blocks}* have their norms after what they add, so that no zeros silence them.")
    silenced = [name for name in GATES if name in block] or ends(block)
    if not silenced:
        raise FitError(f"Blocks {blocks}* have no layer scale, projection or norm at their end that this knows: use "
                       "'stack' or 'repeat'.")  # fmt: skip
    for name in silenced:
        block[name] = np.zeros_like(block[name])
