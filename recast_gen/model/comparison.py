"""What a bank changes in a network's behaviour: features block by block, logits, predictions."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cosine_similarity
from torch.utils.data import DataLoader

from ..bank.bank import TemplateBank
from ..errors import AttachError
from ..weights.modes import evaluating
from ..weights.tensors import to_torch


def blocks(bank: TemplateBank) -> list[str]:
    """The modules whose outputs are compared: of each generated tensor, the path up to its first whole number."""
    found = []
    for name in bank.layers:
        parts = name.split(".")
        first = next((index for index, part in enumerate(parts) if part.isdecimal()), len(parts) - 2)
        found.append(".".join(parts[: first + 1]))
    return list(dict.fromkeys(found))


def compare(bank: TemplateBank, model: nn.Module, images: Any, batch_size: int = 128) -> dict:
    """Runs a dataset (image ``c h w``, label) through `model` and through the same model with the bank's weights.

    Returns ``blocks`` (name -> mean cosine of the flattened features), ``logits_cosine`` (mean), ``largest_difference``
    (of logits, over the largest logit), ``same_prediction`` and, for the labels, ``accuracy`` and ``accuracy_of_bank``
    (fractions).  Source: the layer-wise similarity of the released notebooks (https://github.com/appledora/RECAST).
    Raises AttachError, with the model unchanged, when it lacks a tensor of the bank or has another shape.
    """
    original = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made = {name: weight for name, weight in bank.base().items() if name in bank.made}
    wrong = [name for name in made if name not in original or original[name].shape != made[name].shape]
    if wrong:
        raise AttachError(
            f"The model has no {wrong[0]} of shape {made[wrong[0]].shape}: the bank is of another network."
        )
    adapted = {name: to_torch(weight).to(original[name]) for name, weight in made.items()}
    names = blocks(bank)
    cosines: dict[str, Any] = {}
    logits_cosine = difference = largest = 0.0
    same = right = right_of_bank = 0
    try:
        with evaluating(model):
            for batch, labels in DataLoader(images, batch_size):
                before, features = _run(model, names, batch, original)
                after, features_of_bank = _run(model, names, batch, adapted)
                for name in features:
                    pair = (features[name].flatten(1), features_of_bank[name].flatten(1))
                    cosines[name] = cosines.get(name, 0.0) + float(cosine_similarity(*pair).sum())
                logits_cosine += float(cosine_similarity(before, after).sum())
                difference = max(difference, float((before - after).abs().max()))
                largest = max(largest, float(before.abs().max()))
                same += int((before.argmax(1) == after.argmax(1)).sum())
                right += int((before.argmax(1) == labels).sum())
                right_of_bank += int((after.argmax(1) == labels).sum())
    finally:
        model.load_state_dict(original)
    count = len(images)
    return {
        "images": count,
        "blocks": {name: total / count for name, total in cosines.items()},
        "logits_cosine": logits_cosine / count,
        "largest_difference": difference / largest,
        "same_prediction": same / count,
        "accuracy": right / count,
        "accuracy_of_bank": right_of_bank / count,
    }


def _run(model: nn.Module, names: list[str], images: torch.Tensor, state: Mapping[str, torch.Tensor]):
    """Logits ``n k`` and, with `state` loaded, the outputs of the named modules that run, the first of several."""
    outputs: dict[str, torch.Tensor] = {}
    model.load_state_dict(state, strict=False)

    def keep(name: str, output) -> None:
        while isinstance(output, list | tuple):
            output = output[0]
        outputs[name] = output

    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: keep(name, out)) for name in names
    ]
    try:
        with torch.no_grad():
            return model(images), outputs
    finally:
        for hook in hooks:
            hook.remove()
