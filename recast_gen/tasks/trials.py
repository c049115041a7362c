"""Template source and learning rate by short trials, on validation."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import AttachError
from ..recipe.training import Train
from ..weights.named import Weights
from .candidates import Candidate
from .data import Splits
from .learner import Learner

IMAGES = 512  # of training, in a trial of one epoch
LOWER, MIDDLE, HIGHER = 0.003, 0.01, (0.03, 0.1)  # shares of its norm that a step may move a layer
LORA = (1e-3, 5e-3, 2e-2)  # learning rates


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
            settings.model_copy(update={"resolution": each.resolution or 1, "relative_lr": MIDDLE}),
            _made(folder / str(index)), img_size=img_size,
        )
        for index, each in enumerate(candidates)
    }  # fmt: skip
    first = learners[0]
    known = first.known  # one pass over the images, for all of them
    solved = known.seen is not None and known.start is not None
    if known.short:
        say(f"what comes before {known.short.entry} was computed once for all images; its layers stay as they are")
    for learner in learners.values():
        learner.known, learner.settings = known, learner.settings.model_copy(update=_head(solved))

    scores: dict[tuple[int, float], float] = {}

    def tried(index: int, relative: float) -> float:
        learner, each = learners[index], candidates[index]
        row = _tried(learner, {"relative_lr": relative})
        trials.append({"source": each.source, "coefficients": each.coefficients, "relative_lr": relative, **row})
        said = f"{each.source}, {each.coefficients:,} coefficients" if each.coefficients else each.source
        say(f"trial: {said}, relative learning rate {relative}: {_said(row)}")
        scores[index, relative] = -row["validation_loss"]
        return scores[index, relative]

    best = max(learners, key=lambda index: tried(index, MIDDLE))
    if tried(best, HIGHER[0]) > scores[best, MIDDLE]:
        tried(best, HIGHER[1])
    else:
        tried(best, LOWER)
    index, relative = max(scores, key=lambda key: scores[key])
    learner = learners[index]
    learner.settings = learner.settings.model_copy(update={"relative_lr": relative})
    said = f"{candidates[index].source}, learning rate {relative}"
    say(f"chosen, as the best of {len(trials)} trials: {said}")
    return Choice(candidates[index], learner, trials)


def comparison(choice: Choice, say: Callable[[str], None]) -> dict | None:
    """The row of LoRA with rank 1 on every query and value of the network; None where it has none.

    Its head is treated as that of the coefficients; its learning rate is the best of three on validation.
    """
    own = choice.learner
    changed = {"adapter": "melo", "adapter_options": {"rank": 1}, "coefficients": False, "relative_lr": None}
    settings = own.settings.model_copy(update=changed | {"max_bytes": None})
    learner = replace(own, settings=settings, folder=_made(own.folder / "lora"), costs=[])
    learner.known = replace(own.known, short=None, entry=None)  # the head sees the same; all blocks change
    try:
        rows = {rate: _tried(learner, {"adapter_lr": rate}) for rate in LORA}
    except AttachError as error:
        say(f"LoRA is not compared: {error}")
        return None
    for rate, row in rows.items():
        say(f"trial: LoRA with rank 1, learning rate {rate}: {_said(row)}")
    best = min(rows, key=lambda rate: rows[rate]["validation_loss"])
    learner.settings = settings.model_copy(update={"adapter_lr": best})
    return learner.run(settings.seeds[0]).row


def _head(solved: bool) -> dict[str, Any]:
    return {"head": "solved" if solved else "trained"}


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _tried(learner: Learner, changed: dict[str, Any]) -> dict:
    """What the epoch of a trial with some settings changed has on validation."""
    other = replace(learner, settings=learner.settings.model_copy(update=changed))
    other.known = learner.known
    return other.trial(IMAGES, other.settings.seeds[0]).history[-1]


def _said(row: dict) -> str:
    return f"loss {row['validation_loss']:.3f}, accuracy {row['validation']:.1%} on validation"
