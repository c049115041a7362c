"""Bank + task -> weights, on a CPU with numpy alone."""

import json
from pathlib import Path

import numpy as np

from . import taskfile
from .bank import TemplateBank, load_bank, mix
from .errors import FitError
from .store import save_tensors
from .weights import dtype_of


def _bank(bank: TemplateBank | str | Path) -> TemplateBank:
    return bank if isinstance(bank, TemplateBank) else load_bank(bank)


def generate(bank: TemplateBank | str | Path, task: taskfile.Task | str | Path | None = None) -> dict[str, np.ndarray]:
    """The complete state dict of a task (of the backbone itself for None): name -> array in the original dtype.

    Raises StoreError and TaskError for files that are damaged or do not belong together.
    """
    bank = _bank(bank)
    if task is None:
        return dict(bank.base())
    if not isinstance(task, taskfile.Task):
        task = taskfile.read(task, bank)
    made = {
        name: mix(task.coefficients[name], group.templates).astype(dtype_of(group.dtype))
        for name, group in bank.layers.items()
    }
    return taskfile.merge_head(made | bank.rest, task)


def write(bank: TemplateBank | str | Path, task: str | Path | None, out: str | Path) -> dict[str, np.ndarray]:
    """Generates into one safetensors file, atomically, and returns what was written.

    Its metadata names the architecture (``timm_model``, ``timm_kwargs``), ``num_classes`` of the task included.
    """
    bank = _bank(bank)
    about = dict(bank.backbone.get("timm_kwargs", {}))
    if task is not None:
        task = taskfile.read(task, bank)
        about["num_classes"] = len(task.about["classes"])
    tensors = generate(bank, task)
    metadata = {"format": "pt", "timm_model": bank.backbone.get("timm_model") or "", "timm_kwargs": json.dumps(about)}
    save_tensors(out, tensors, metadata)
    return tensors


def sample(
    bank: TemplateBank | str | Path, n: int = 1, temperature: float = 1.0, seed: int = 0
) -> list[dict[str, np.ndarray]]:
    """`n` coefficient sets (tensor name -> ``1 1 t`` float32) from the VAE's posterior over each layer's coefficients.

    temperature: factor on the posterior's standard deviation; 0 gives its mean.  Raises FitError where there is none.
    """
    bank = _bank(bank)
    if temperature < 0 or n < 1:
        raise FitError(f"n={n}, temperature={temperature}: give n of 1 or more and a temperature of 0 or more.")
    for key, group in bank.groups.items():
        if group.posterior is None:
            raise FitError(
                f"Group {key} has no distribution to sample from: fit the bank with mimic_vae(variational=True)."
            )
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(n):
        coefficients = {}
        for group in bank.groups.values():
            mean, deviation = group.posterior
            values = mean + temperature * deviation * rng.standard_normal(mean.shape)
            coefficients |= {name: value[None, None].astype(np.float32) for name, value in zip(group.names, values)}
        drawn.append(coefficients)
    return drawn
