"""What a head sees of every image, kept: where nothing before it is trained, it need not be computed every epoch."""

from dataclasses import replace

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ..recipe.training import Training
from .data import Splits
from .module import seed_everything, training_device


@torch.no_grad()
def before_head(model: nn.Module, head: nn.Module, splits: Splits, settings: Training) -> Splits | None:
    """The splits with images replaced by the input of `head`; None where the head is not the model's last step.

    The model is put into eval mode, and for as long as this takes on the device where `settings` train.  Equal to
    running all of the model, up to the rounding of other batches.  Augmented images are drawn once, always alike.
    """
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
        parts = {part: features(getattr(splits, part)) for part in ("train", "validation", "test")}
    finally:
        hook.remove()
        model.cpu()
    return None if None in parts.values() else replace(splits, **parts)
