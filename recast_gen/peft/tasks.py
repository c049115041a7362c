"""A task file <-> an adapter of a PEFT model."""

import copy
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from peft.utils import ModulesToSaveWrapper
from torch import nn

from ..bank import taskfile
from ..bank.bank import TemplateBank
from ..bank.saved import loaded
from ..errors import TaskError, listing
from ..model import heads
from ..model.attach import attach, attached, set_coefficients
from ..model.parametrizations import Templates
from ..model.saving import save_task
from ..weights.qkv import owner
from .config import RecastConfig
from .layer import RecastLayer, key


def write_task(path: str | Path, model: PeftModel, adapter: str | None = None, **about: Any) -> int:
    """Writes an adapter of a PEFT model as a task file of its bank; the model stays as it is.

    Args:
        path: of the file.
        model: `peft.get_peft_model` made it of a `RecastConfig`.
        adapter: its name; the active one when not given.
        **about: ``classes``, ``metrics``, ``head_bits`` and so on, as `rg.save_task` takes them.
    Returns:
        The file's size in bytes.
    Raises:
        TaskError: another adapter, several modules saved whole, and as `rg.save_task`.
    """
    adapter = adapter or model.active_adapter
    config = _config(model, adapter)
    shared = {id(module.values): module.values for module in model.modules() if isinstance(module, Templates)}
    other = copy.deepcopy(model, shared)
    if any(layer.merged for layer in _layers(other).values()):
        other.unmerge_adapter()
    other.set_adapter(adapter)
    found = {
        name: layer.recast_coefficients[adapter][key(name)].detach().float()
        for place, layer in _layers(other).items()
        for name in config.opened.layers if owner(name) == place
    }  # fmt: skip
    saved = [name for name, module in _inside(other).named_modules() if isinstance(module, ModulesToSaveWrapper)]
    saved = [name for name in saved if adapter in _inside(other).get_submodule(name).modules_to_save]
    if len(saved) > 1:
        raise TaskError(f"{adapter} saves {listing(saved, 4)} whole, and a task file holds one head: save one module.")
    plain = attach(other.unload(), config.opened, config.resolution)
    for name, (module, leaf, _) in attached(plain).items():
        set_coefficients(module, leaf, found[name])
    return save_task(path, plain, config.opened, head=saved[0] if saved else "", **about)


def add_task(
    path: str | Path, model: nn.Module, bank: TemplateBank | str | Path, adapter: str = "default"
) -> PeftModel:  # fmt: skip
    """Puts a task file on a network as an adapter, which becomes the active one.

    Args:
        path: the task file.
        model: the bank's backbone, or a PEFT model of it.
        bank: the task's bank, or its path.
        adapter: the name that it gets.
    Returns:
        The PEFT model.
    Raises:
        TaskError: the task has what PEFT has no form for: an adapter of its own, tables of another size of images,
            coefficients of more sets than its bank, several modules of its head.
        AttachError: as `rg.attach`.
    """
    known = loaded(bank)
    task = taskfile.read(path, known)
    _refuse(task, known, path)
    counts = {group.family: task.coefficients[name].shape[1] for name, group in known.layers.items()}
    head = task.about.get("head") if task.head else None
    config = RecastConfig(
        bank=bank if isinstance(bank, TemplateBank) else str(bank),
        resolution=next(iter(counts.values())) if len(set(counts.values())) == 1 else counts,
        modules_to_save=[head] if head else None,
        inference_mode=True,
    )
    if isinstance(model, PeftModel):
        model.add_adapter(adapter, config)
        made = model
    else:
        made = get_peft_model(model, config, adapter_name=adapter)
    for place, layer in _layers(made).items():
        for name in known.layers:
            if owner(name) == place:
                parameter = layer.recast_coefficients[adapter][key(name)]
                parameter.data = torch.from_numpy(task.coefficients[name]).to(parameter)
    if head:
        _put_head(made, head, adapter, task)
    made.set_adapter(adapter, inference_mode=True)
    return made


def _refuse(task: taskfile.Task, bank: TemplateBank, path: str | Path) -> None:
    what = {
        "an adapter of its own": bool(task.adapter),
        "another size of images": bool(task.tables or "size" in task.about),
        "coefficients of other sets than its bank's": any(
            task.coefficients[name].shape[0] != base.shape[0] for group in bank.groups.values() for name, base in group
        ),
        "a head and no name of its module": bool(task.head) and not task.about.get("head"),
    }
    if wrong := [word for word, found in what.items() if found]:
        raise TaskError(f"{path} has {listing(wrong)}, for which PEFT has no form: use it with rg.load_task.")


def _put_head(model: PeftModel, head: str, adapter: str, task: taskfile.Task) -> None:
    """Gives the adapter's copy of the head the task's tensors, of whatever number of classes."""
    wrapper = _inside(model).get_submodule(head)
    holder: Any = nn.Module()
    holder.register_buffer("like", next(_inside(model).parameters()).detach()[:0])
    holder.head = wrapper.modules_to_save[adapter]
    tensors = {f"head{name.removeprefix(head)}": torch.from_numpy(array) for name, array in task.head.items()}
    heads.switch(holder, tensors, {}, task.outputs)
    wrapper.modules_to_save[adapter] = holder.head


def _config(model: PeftModel, adapter: str) -> RecastConfig:
    config = getattr(model, "peft_config", {}).get(adapter)
    if not isinstance(config, RecastConfig):
        raise TaskError(f"The model has no RECAST adapter {adapter!r}: there are {listing(model.peft_config)}.")
    return config


def _inside(model: PeftModel) -> Any:
    return model.base_model.model


def _layers(model: PeftModel) -> dict[str, RecastLayer]:
    return {path: module for path, module in _inside(model).named_modules() if isinstance(module, RecastLayer)}
