"""What a head sees of every image, kept: to start it from, and to train it on where nothing before it is trained."""

from dataclasses import replace

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ..recipe.training import Training
from .data import Splits
from .module import check, seed_everything, training_device
from .readers.raw import PARTS


@torch.no_grad()
def before_head(
    model: nn.Module, head: nn.Module, splits: Splits, settings: Training, parts: tuple[str, ...] = PARTS
) -> Splits | None:
    """Splits with the images of `parts` replaced by the input of `head`; None where it is not the model's last step.

    The model is put into eval mode, and for as long as this takes on the device where `settings` train.  Equal to
    running all of the model, up to the rounding of other batches.  Augmented images are drawn once, always alike.
    Raises DataError where model and images do not go together.
    """
    check(model, splits)
    seed_everything(0, verbose=False)
    device, seen = training_device(settings), []
    model.to(device).eval()
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))

    def features(images: Dataset) -> TensorDataset | None:
        found = []
        for batch, labels in DataLoader(images, settings.batch_size):
            seen.clear()
            logits = model(batch.to(device))
            calls = list(seen)
            if len(calls) != 1 or len(calls[0]) != 1 or not torch.equal(head(calls[0][0]), logits):
                return None
            found.append((calls[0][0].cpu(), labels))
        return TensorDataset(*map(torch.cat, zip(*found)))

    try:
        found = {part: features(getattr(splits, part)) for part in parts}
    finally:
        hook.remove()
        model.cpu()
    return None if None in found.values() else replace(splits, **found)
