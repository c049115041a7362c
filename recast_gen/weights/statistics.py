"""Statistics of batch norms, estimated anew from images without labels."""

from typing import TYPE_CHECKING, Any

from ..errors import FitError, takes_images

if TYPE_CHECKING:
    from torch import nn

BATCH = 256  # images at a time, at most
LEAST = 2  # images that have a variance


def estimate(model: "nn.Module", images: Any) -> None:
    """Sets the running statistics of a model's batch norms to those of images, in place; others change nothing.

    Weights that were not trained together have other activations than any network whose statistics are known (Jordan et
    al. 2023, REPAIR, https://arxiv.org/abs/2211.08403).

    Args:
        model: left in eval mode.
        images: ``n c h w`` as the model wants them; no labels.
    Raises:
        FitError: fewer images than a variance needs, or images that the model does not take.
    """
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    norms = [norm for norm in model.eval().modules() if isinstance(norm, _BatchNorm) and norm.track_running_stats]
    if not norms:
        return
    images = torch.as_tensor(images)
    if len(images) < LEAST:
        raise FitError(
            f"{len(images)} image(s) for the statistics of {len(norms)} batch norms: give {LEAST} or more, better a "
            "hundred; labels are not needed."
        )
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
        norm.train()
    with torch.no_grad(), takes_images(f"shape {tuple(images.shape[1:])}", FitError, "give them as the model does."):
        for batch in images.chunk(-(-len(images) // BATCH)):  # of one size, so that none is too small
            model(batch.to(norms[0].running_mean))
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
    model.eval()
