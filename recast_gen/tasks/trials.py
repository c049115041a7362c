"""Template source and learning rate by short trials, on validation."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf, isnan
from pathlib import Path
from typing import Any

from ..errors import AttachError
from ..recipe.training import Train
from ..weights.named import Weights
from .candidates import Candidate
from .data import Splits
from .learner import Learner
from .logistic import solved_head
from .module import examine

IMAGES = 256  # of training, in a trial of one epoch: with half as many, settings are told apart by chance
STEPS = 4  # of a trial
RATES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # shares of its norm that a step may move a layer
FIRST = 4  # place of the one that is tried first
NEAR = 0.01  # of cross entropy: of learning rates so near, the lower; few steps favour high ones
LORA = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)  # its learning rates
LORA_FIRST = 2


@dataclass
class Choice:
    """The best candidate, the learner that trains it, and what it was chosen from."""

    candidate: Candidate
    learner: Learner
    trials: list[dict] = field(default_factory=list)

    @property
    def chosen(self) -> dict[str, Any]:
        settings = self.learner.settings
        return {
            "source": self.candidate.source, "resolution": self.candidate.resolution,
            "relative_lr": settings.relative_lr, "head": settings.head,
        }  # fmt: skip


def choose(
    candidates: list[Candidate], data: Splits, base: Weights, settings: Train, folder: Path,
    say: Callable[[str], None], img_size: list[int] | None = None,
) -> Choice:  # fmt: skip
    """The source that is best at one learning rate, then the learning rate that is best with it."""
    trials: list[dict] = []
    learners = {
        index: Learner(
            "task", lambda: data, each.bank, base,
            settings.model_copy(update={"resolution": each.resolution or 1, "relative_lr": RATES[FIRST]}),
            _made(folder / str(index)), img_size=img_size, whole=False,
        )
        for index, each in enumerate(candidates)
    }  # fmt: skip
    first = learners[0]
    known = first.known  # one pass over the images, for all of them
    solved = known.seen is not None and known.start is not None
    if known.short:
        say(f"what comes before {known.short.entry} stays as it is: computed once for each image")
    if known.seen and known.start and (head := solved_head(known.seen)):
        known.solved = head
        right, _ = examine(head, known.seen.validation, settings)
        say(f"start: a head solved on its features, validation {right:.1%}")
    for learner in learners.values():
        learner.known, learner.settings = known, learner.settings.model_copy(update=_head(solved))

    def tried(index: int, place: int) -> float:
        learner, each, relative = learners[index], candidates[index], RATES[place]
        row = _tried(learner, {"relative_lr": relative})
        trials.append({"source": each.source, "coefficients": each.coefficients, "relative_lr": relative, **row})
        said = f"{each.source}, {each.coefficients:,} coefficients" if each.coefficients else each.source
        say(f"trial: {said}, learning rate {relative}: {_said(row)}")
        return _loss(row)

    say("trials are short, on few images: their losses compare settings and are no forecast")
    firsts = {index: tried(index, FIRST) for index in learners}
    best = min(firsts, key=lambda index: firsts[index])
    relative = RATES[_searched(lambda place: tried(best, place), len(RATES), {FIRST: firsts[best]})]
    learner = learners[best]
    learner.settings = learner.settings.model_copy(update={"relative_lr": relative})
    say(f"chosen of {len(trials)} trials: {candidates[best].source}, learning rate {relative}")
    return Choice(candidates[best], learner, trials)


def comparison(choice: Choice, say: Callable[[str], None]) -> dict | None:
    """The row of LoRA with rank 1 on every query and value of the network; None where it has none.

    Its head is treated as that of the coefficients, and its learning rate is chosen as theirs.
    """
    own = choice.learner
    changed = {"adapter": "melo", "adapter_options": {"rank": 1}, "coefficients": False, "relative_lr": None}
    settings = own.settings.model_copy(update=changed | {"max_bytes": None})
    learner = replace(own, settings=settings, folder=_made(own.folder / "lora"), costs=[])
    learner.known = replace(own.known, short=None, entry=None)  # the head sees the same; all blocks change

    def tried(place: int) -> float:
        row = _tried(learner, {"adapter_lr": LORA[place]})
        say(f"trial: LoRA, learning rate {LORA[place]}: {_said(row)}")
        return _loss(row)

    say("LoRA with rank 1 changes all blocks, so that it takes longer")
    try:
        first = tried(LORA_FIRST)
    except AttachError as error:
        say(f"LoRA is not compared: {error}")
        return None
    best = LORA[_searched(tried, len(LORA), {LORA_FIRST: first})]
    say(f"training LoRA with rank 1, learning rate {best}")
    learner.settings = settings.model_copy(update={"adapter_lr": best})
    return learner.run(settings.seeds[0]).row


def _searched(loss: Callable[[int], float], count: int, losses: dict[int, float]) -> int:
    """The place of the learning rate of least loss, among `count` in rising order; the lowest of those that are NEAR.

    Upwards from the first, or else downwards, until one is no better: the range does not end at the choice.  A rate
    with which training diverges is no end of the way down.

    Args:
        losses: that of the first, by its place; those of others are added.
    """
    (first,) = losses
    for step in (1, -1):
        place = first
        while place == first or losses[place] < losses[place - step] or step < 0 and losses[place] == inf:
            place += step
            if not 0 <= place < count:
                break
            losses[place] = loss(place)
        if min(losses.values()) < losses[first]:
            break
    return min(place for place, found in losses.items() if found <= min(losses.values()) + NEAR)


def _loss(row: dict) -> float:
    return inf if isnan(row["validation_loss"]) else row["validation_loss"]


def _head(solved: bool) -> dict[str, Any]:
    return {"head": "solved" if solved else "trained"}


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _tried(learner: Learner, changed: dict[str, Any]) -> dict:
    """What the epoch of a trial with some settings changed has on validation."""
    other = replace(learner, settings=learner.settings.model_copy(update=changed))
    other.known = learner.known
    return other.trial(IMAGES, STEPS, other.settings.seeds[0]).history[-1]


def _said(row: dict) -> str:
    return f"loss {row['validation_loss']:.3f}, {row['validation']:.1%}"
