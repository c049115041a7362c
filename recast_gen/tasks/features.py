"""What a frozen network makes of every image, kept: what its head sees, and what its frozen prefix ends in."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from ..recipe.training import Training
from .data import Splits
from .loop import batches
from .module import check, once, seed_everything, training_device
from .passes import Watch, at_once
from .prefix import Shortcut
from .readers.raw import PARTS
from .threads import threads


def before_head(
    model: nn.Module, head: nn.Module, splits: Splits, settings: Training, parts: tuple[str, ...] = PARTS
) -> Splits | None:
    """Splits with the images of `parts` replaced by the input of `head`; None where it is not the model's last step.

    The model is put into eval mode, and for as long as this takes on the device where `settings` train.  Equal to
    running all of the model, up to the rounding of other batches.  Augmented images are drawn once, always alike.

    Raises:
        DataError: model and images do not go together.
    """
    return observed(model, head, splits, settings, parts)[0]


@torch.no_grad()
def observed(
    model: nn.Module, head: nn.Module, splits: Splits, settings: Training, parts: tuple[str, ...] = PARTS,
    short: Shortcut | None = None, entered: tuple[str, ...] = PARTS,
) -> tuple[Splits | None, Splits | None]:  # fmt: skip
    """One pass over the images of `parts`: `before_head`, and for those of `entered` what `short` starts from.

    Raises:
        DataError: model and images do not go together.
    """
    check(model, splits)
    seed_everything(0, verbose=False)
    device = training_device(settings)
    model.to(device).eval()
    size = at_once(model, splits.train, settings)
    modules = [head] + ([model.get_submodule(short.entry)] if short else [])
    seen: dict[nn.Module, list] = {module: [] for module in modules}
    hooks = [module.register_forward_pre_hook(lambda module, given: seen[module].append(given)) for module in modules]
    last, count = True, sum(len(getattr(splits, part)) for part in parts)

    @once
    def told(seconds: float) -> None:
        print(f"a pass over {count:,} images, about {seconds:.0f} s left", flush=True)

    watch = Watch(count, told)

    def kept(images: Dataset, wanted: list[nn.Module]) -> list[TensorDataset]:
        nonlocal last
        found: list[list[torch.Tensor]] = [[] for _ in wanted]
        labels: list[torch.Tensor] = []
        for batch, label in batches(images, size, settings.workers):
            for calls in seen.values():
                calls.clear()
            logits, labels = model(batch.to(device)), [*labels, label]
            calls = list(seen[head])  # checked before the head is called once more
            last = last and len(calls) == 1 and len(calls[0]) == 1 and torch.equal(head(calls[0][0]), logits)
            for module, inputs in zip(wanted, found):
                inputs.append(seen[module][0][0].cpu() if last or module is not head else label)
            watch.saw(len(label))
        return [TensorDataset(torch.cat(inputs), torch.cat(labels)) for inputs in found]

    try:
        with threads(model, splits.train, settings.batch_size):
            found = {part: kept(getattr(splits, part), modules if part in entered else [head]) for part in parts}
    finally:
        for hook in hooks:
            hook.remove()
        model.cpu()
    both: list[dict[str, Any]] = [
        {part: each[index] for part, each in found.items() if index < len(each)} for index in range(len(modules))
    ]
    return replace(splits, **both[0]) if last else None, replace(splits, **both[1]) if short else None
