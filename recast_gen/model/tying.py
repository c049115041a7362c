"""Training in which several coefficients are one number."""

import torch
from torch import nn

from ..bank.bank import TemplateBank
from ..bank.tying import Tie, tie_of
from .attach import attached, coefficients
from .switching import check_attached


class Tying:
    """What an optimizer does with coefficients of which several are one number, as a `Tie` says.

    Before each step every coefficient gets the mean gradient of those that are tied to it, and after it the mean of
    their steps from the base.  That is training on the subspace that the tie leaves: projection onto it is the mean.
    """

    def __init__(self, model: nn.Module, bank: TemplateBank, tie: Tie):
        found = dict(zip(attached(model), coefficients(model)))
        self.numbers = [found[name] for name in bank.layers]
        self.places = torch.from_numpy(tie.places(bank, {name: tuple(found[name].shape) for name in bank.layers}))
        bases = {name: base for group in bank.groups.values() for name, base in group}
        self.bases = []
        for name, numbers in zip(bank.layers, self.numbers):
            base = torch.from_numpy(bases[name])
            base = base if len(base) == len(numbers) else base.mean(0, keepdim=True)
            self.bases.append(base.repeat_interleave(numbers.shape[1] // base.shape[1], 1).reshape(-1))

    @property
    def count(self) -> int:
        """How many numbers are trained."""
        return int(self.places.max()) + 1

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Ties what `optimizer` trains from now on, and what the coefficients are."""
        optimizer.register_step_pre_hook(lambda *_: self._gradients())
        optimizer.register_step_post_hook(lambda *_: self._steps())
        self._steps()

    @torch.no_grad()
    def _gradients(self) -> None:
        empty = [torch.zeros_like(numbers) for numbers in self.numbers]
        given = [none if numbers.grad is None else numbers.grad for numbers, none in zip(self.numbers, empty)]
        for numbers, mean in zip(self.numbers, self._means(torch.cat([one.reshape(-1) for one in given]))):
            numbers.grad = mean.reshape(numbers.shape)

    @torch.no_grad()
    def _steps(self) -> None:
        bases = [base.to(numbers) for base, numbers in zip(self.bases, self.numbers)]
        steps = torch.cat([numbers.reshape(-1) - base for base, numbers in zip(bases, self.numbers)])
        for base, numbers, mean in zip(bases, self.numbers, self._means(steps)):
            numbers.data.copy_((base + mean).reshape(numbers.shape))

    def _means(self, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        places = self.places.to(values.device)
        found = values.new_zeros(self.count).index_add_(0, places, values)
        found /= torch.bincount(places, minlength=self.count)
        return found[places].split([numbers.numel() for numbers in self.numbers])


def tie(model: nn.Module, bank: TemplateBank, optimizer: torch.optim.Optimizer, how: str | int) -> int:
    """Makes several coefficients of `model` one number each, for as long as `optimizer` trains them.

    ``rg.save_task(..., tie=how)`` then writes each number once.

    Args:
        model: has the bank attached.
        bank: the one that is attached.
        optimizer: of the coefficients, all with one learning rate at best.
        how: ``group``, ``family`` or ``model``: the coefficients at one place of the layers of each; or a count of
            numbers, of which each coefficient takes one at random, as Uni-LoRA groups them.
    Returns:
        How many numbers are trained (count).
    Raises:
        AttachError: `bank` is not attached.
        TaskError: layers of different shapes are tied, or more numbers are asked for than there are coefficients.
    """
    check_attached(model, bank)
    found = tie_of(how)
    if found is None:
        return sum(numbers.numel() for numbers in coefficients(model))
    tying = Tying(model, bank, found)
    tying.follow(optimizer)
    return tying.count
