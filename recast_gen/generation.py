"""Bank + task -> weights, on a CPU with numpy alone."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from . import taskfile
from .bank import TemplateBank, open_bank
from .errors import FitError
from .files import stream_tensors


def _open(bank: TemplateBank | str | Path, task: taskfile.Task | str | Path | None = None):
    bank = bank if isinstance(bank, TemplateBank) else open_bank(bank)
    if isinstance(task, Mapping):
        task = taskfile.Task(task, {})
    if not (task is None or isinstance(task, taskfile.Task)):
        task = taskfile.read(task, bank)
    return bank, task


def stream(
    bank: TemplateBank | str | Path, task: taskfile.Task | str | Path | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of every tensor of `generate`, one at a time, with one group of templates in memory.

    Raises StoreError and TaskError for files that do not belong together, and for a damaged array before its turn.
    """
    bank, task = _open(bank, task)
    if task is None:
        yield from bank.stream()
        return
    head = taskfile.head_for(bank, task)
    for name, tensor in bank.stream(task.coefficients):
        yield name, head.get(name, tensor)


def generate(bank: TemplateBank | str | Path, task: taskfile.Task | str | Path | None = None) -> dict[str, np.ndarray]:
    """The complete state dict of a task (of the backbone itself for None): name -> array in the original dtype.

    task: a task file, or coefficients by tensor name, as `sample` draws them, for the backbone's own head.
    Raises StoreError and TaskError for files that are damaged or do not belong together.
    """
    return dict(stream(bank, task))


def write(
    bank: TemplateBank | str | Path, task: taskfile.Task | str | Path | None, out: str | Path
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Generates into one safetensors file, layer by layer and atomically; returns (shape, dtype name) by name.

    Its metadata names the architecture where the bank knows it (``timm_model``, ``timm_kwargs``), ``num_classes`` of
    the task included.
    """
    bank, task = _open(bank, task)
    about, shapes = dict(bank.backbone.get("timm_kwargs", {})), bank.shapes
    if task is not None:
        if classes := task.about.get("classes"):  # without a head of its own, it has the backbone's
            about["num_classes"] = len(classes)
        shapes |= {name: (array.shape, array.dtype.name) for name, array in taskfile.head_for(bank, task).items()}
    metadata = {"format": "pt"}
    if model := bank.backbone.get("timm_model"):
        metadata |= {"timm_model": model, "timm_kwargs": json.dumps(about)}
    stream_tensors(out, shapes, stream(bank, task), metadata)
    return shapes


def sample(
    bank: TemplateBank | str | Path, n: int = 1, temperature: float = 1.0, seed: int = 0
) -> list[dict[str, np.ndarray]]:
    """`n` coefficient sets (tensor name -> ``1 1 t`` float32) from the VAE's posterior over each layer's coefficients.

    temperature: factor on the posterior's standard deviation; 0 gives its mean.  Norms in a bank keep their base.
    Raises FitError where there is no posterior.
    """
    bank, _ = _open(bank)
    if temperature < 0 or n < 1:
        raise FitError(f"n={n}, temperature={temperature}: give n of 1 or more and a temperature of 0 or more.")
    for key, group in bank.groups.items():
        if group.posterior is None and group.templates.ndim > 2:
            raise FitError(
                f"Group {key} has no distribution to sample from: fit the bank with mimic_vae(variational=True)."
            )
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(n):
        coefficients = {}
        for group in bank.groups.values():
            if group.posterior is None:
                coefficients |= dict(group)
                continue
            mean, deviation = group.posterior
            values = mean + temperature * deviation * rng.standard_normal(mean.shape)
            coefficients |= {name: value[None, None].astype(np.float32) for name, value in zip(group.names, values)}
        drawn.append(coefficients)
    return drawn
