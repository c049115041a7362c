"""One set of coefficients that learns one step after the other, and what the network makes of all images after each."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from ..recipe.incremental import Incremental, Sequential
from .classes import Features, Source
from .constraints import WAYS, learning, slopes
from .hierarchy import levels
from .module import training_device
from .steps import Step, level


def named_then(known: Features, settings: Incremental, steps: list[Step]) -> Iterator[tuple[Features, torch.Tensor]]:
    """Of every step all images under what they are called then, and the numbers of those that it trains on."""
    names, above = levels(known.classes, settings.hierarchy)
    for number, (_, rows) in enumerate(steps):
        yield known.called(names, above[level(number, len(steps), len(above))]), rows


def continued(
    source: Source, known: Features, settings: Incremental, steps: list[Step], way: str
) -> Iterator[tuple[Features, int, float]]:
    """After every step: features of the network then; bytes of coefficients and of what `way` keeps; processor seconds.

    Each step begins with the coefficients of the one before and a head of its own, which is dropped.

    Raises:
        DataError: a step has one class, or tasks have images of several sizes.
    """
    how = settings.sequential or Sequential()
    keeper, state, head = WAYS[way](how), dict[str, torch.Tensor](), source.bank.backbone["head"]
    for number, (named, rows) in enumerate(named_then(known, settings, steps), start=1):
        start = time.process_time()
        if len(rows):
            with tempfile.TemporaryDirectory() as folder:
                learner = source.learner(named, rows, how.epochs, Path(folder), "sequential", f"step {number}")
                learner.start, learner.hold = state, keeper.hold
                model = learner.learnt(source.seed)
                own = learning(model, head)
                if of := keeper.of:
                    device, images = training_device(source.settings), learner.splits.train
                    args = model.get_submodule(head), list(own.values()), images, source.seed, device
                    keeper.learnt(slopes(of, model, *args), len(rows))
            state = {name: parameter.detach().clone() for name, parameter in own.items()}
        size = keeper.nbytes + sum(4 * tensor.numel() for tensor in state.values())
        yield source.features(settings.stages, state), size, time.process_time() - start
