"""What a setting is worth: its row of a study's table."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, lru_cache

import numpy as np

from ..bank.bank import TemplateBank, left_over
from ..bank.group import Group
from ..errors import DataError
from ..mimicry.measures import overall
from ..mimicry.norms import with_norms
from ..model.resolution import blocks
from ..recipe.reading import Recipe
from ..recipe.study import OF_MODEL
from ..weights import networks
from .fits import Fits
from .setting import Setting

MAXIMISED = {"accuracy"}


def excess(metric: str, value: float, limit: float) -> float:
    """How far a value is beyond its limit; 0 or less where it is met."""
    return limit - value if metric in MAXIMISED else value - limit


class Measure:
    """Setting -> what it costs and keeps.

    ``relative_error, bound, stored_bytes, stored_share, stored_parameters``: of the bank, see
    `recast_gen.mimicry.measures.overall`.  ``coefficients``: count of a task's trainable parameters in the fitted
    families, of all sets and output blocks.  ``disagreement``: share of probe images whose prediction the bank changes.
    ``feature_disagreement``: 1 - mean cosine of the last changed block's features.  ``accuracy``: best share right on
    the first task's validation images in a short training.  The last three only where the recipe measures them.
    """

    def __init__(self, fits: Fits, recipe: Recipe):
        self.fits, self.recipe = fits, recipe
        self.blocks = lru_cache(maxsize=None)(self._blocks)

    def __call__(self, setting: Setting, on_epoch: Callable[[float, int], None] | None = None) -> dict:
        """on_epoch: called with the accuracy after each epoch (count from 1); it may raise to end the training."""
        certificates, wanted = self.fits.certificates(setting), self.recipe.tune.metrics
        row = overall(certificates.values())
        blocks = self.blocks(setting.resolution)
        row["coefficients"] = sum(
            certificate["coefficients"] * blocks[family] for (family, _), certificate in certificates.items()
        )
        if wanted & OF_MODEL:
            bank = self.fits.bank(replace(setting, resolution=1))
            if wanted & {"disagreement", "feature_disagreement"}:
                row |= self._disagreement(bank)
            if "accuracy" in wanted:
                row["accuracy"] = self._accuracy(bank, setting.resolution, on_epoch)
        return row

    def by_family(self, setting: Setting) -> dict[str, dict]:
        """Of each family: templates in all its groups (count), and its relative error."""
        found: dict[str, list[dict]] = {}
        for (family, _), certificate in self.fits.certificates(setting).items():
            found.setdefault(family, []).append(certificate)
        return {
            family: {
                "templates": sum(group["templates"] for group in groups),
                "relative_error": overall(groups)["relative_error"],
            }
            for family, groups in found.items()
        }

    def _blocks(self, resolution: int | str | None) -> dict[str, int]:
        """Family -> output blocks with coefficients of their own; resolution: None for the recipe's, which may also
        name families of norms."""
        if isinstance(resolution, int):
            return dict.fromkeys(self.fits.families, resolution)
        groups = {
            (family.name, 0): Group(
                family.name, family.names, np.broadcast_to(np.float32(0), (1, *family.shape)),
                np.zeros((family.layers, 1, 1, 1), np.float32), family.dtype, {},
            )
            for family in self.fits.families.values()
        }  # fmt: skip
        norms, weights, rest = self.recipe.tune.norms, self.fits.weights, {}
        if norms != "none":
            rest = left_over(weights, {name for group in groups.values() for name in group.names})
        bank = with_norms(TemplateBank(groups, rest, weights.backbone), norms)
        counts = blocks(self._network, bank, resolution or self.recipe.train.resolution)
        return {name: counts[family.names[0]] for name, family in self.fits.families.items()}

    @cached_property
    def _network(self):
        return networks.rebuild(self.fits.weights)

    @cached_property
    def _probe(self):
        from torch.utils.data import Subset

        from ..tasks import data

        asked, about = self.recipe.tune, self.fits.weights.backbone["data_config"]
        images = data.load(asked.probe or self.recipe.tasks[0].data, about, self.recipe.seed).validation
        if not len(images):
            raise DataError("tune.probe has no validation images to compare predictions on: give it a share of them.")
        return Subset(images, range(min(asked.probe_images, len(images))))

    def _disagreement(self, bank: TemplateBank) -> dict:
        from ..model.comparison import compare

        found = compare(bank, self._network, self._probe)
        last = list(found["blocks"].values())[-1]
        return {"disagreement": 1 - found["same_prediction"], "feature_disagreement": max(0.0, 1 - last)}

    @cached_property
    def _task(self):
        from ..tasks import data

        task = self.recipe.tasks[0]
        return data.load(task.data, task.wanted(self.fits.weights.backbone["data_config"]), self.recipe.seed)

    def _accuracy(self, bank: TemplateBank, resolution: int | str | None, on_epoch: Callable | None) -> float:
        from ..tasks.analytic import gentle, ridge_start, wants_ridge
        from ..tasks.features import before_head
        from ..tasks.methods import adapted, prepare, rates
        from ..tasks.module import fit
        from ..tasks.readers.raw import PARTS
        from ..tasks.solved import loop_of

        asked, seed, bank = self.recipe.train, self.recipe.seed, with_norms(bank, self.recipe.tune.norms)
        changed = {"epochs": self.recipe.tune.accuracy_epochs, "resolution": resolution or asked.resolution}
        settings = asked.model_copy(update=changed | {"devices": 1})  # a study's workers are its processes
        made_for = len(self._task.classes), settings, seed, self.recipe.tasks[0].size
        model, trained = prepare(adapted(settings), bank, bank.base(), *made_for)
        head = model.get_submodule(bank.backbone["head"])
        seen = None
        if wants_ridge(head, settings):
            seen = before_head(model, head, self._task, settings, PARTS[:2])
            if seen and (start := ridge_start(seen)):
                head.load_state_dict(start.state_dict())
                if not (settings.lr or settings.head_lr):
                    settings = settings.model_copy(update={"head_lr": gentle(seen)})
        args, loop = (settings, rates(model, trained, settings), seed, bank.hash), loop_of(settings, head, seen)
        return fit(model, self._task, *args, on_epoch, loop=loop).validation
