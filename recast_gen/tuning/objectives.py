"""What a setting is worth: its row of a study's table."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

from .. import sources
from ..bank import TemplateBank
from ..errors import DataError
from ..mimicry.measures import overall
from ..recipe import Recipe
from .fits import Fits
from .space import Setting

MAXIMISED = {"accuracy"}
OF_MODEL = {"disagreement", "feature_disagreement", "accuracy"}  # need the network, so the bank itself


def excess(metric: str, value: float, limit: float) -> float:
    """How far a value is beyond its limit; 0 or less where it is met."""
    return limit - value if metric in MAXIMISED else value - limit


class Measure:
    """Setting -> what it costs and keeps.

    ``relative_error, bound, stored_bytes, stored_share, stored_parameters``: of the bank, see
    `recast_gen.mimicry.measures.overall`.  ``coefficients``: count of numbers a task trains, of all sets and output
    blocks.  ``disagreement``: share of probe images whose prediction the bank changes.  ``feature_disagreement``: 1 -
    mean cosine of the last changed block's features.  ``accuracy``: best share right on the first task's validation
    images in a short training.  The last three only where the recipe measures them.
    """

    def __init__(self, fits: Fits, recipe: Recipe):
        self.fits, self.recipe = fits, recipe

    def __call__(self, setting: Setting, on_epoch: Callable[[float, int], None] | None = None) -> dict:
        """on_epoch: called with the accuracy after each epoch (count from 0); it may raise to end the training."""
        certificates, wanted = self.fits.certificates(setting), self.recipe.tune.measured
        row = overall(certificates.values())
        row["stored_bytes"] += 4 * row["coefficients"] * (setting.sets - 1)  # certificates are of one set
        row["stored_share"] = row["stored_bytes"] / row["original_bytes"]
        row["stored_parameters"] = row["stored_bytes"] // 4
        row["coefficients"] *= setting.sets * setting.resolution
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

    @cached_property
    def _network(self):
        return sources.rebuild(self.fits.weights)

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
        from ..comparison import compare

        found = compare(bank, self._network, self._probe)
        last = list(found["blocks"].values())[-1]
        return {"disagreement": 1 - found["same_prediction"], "feature_disagreement": max(0.0, 1 - last)}

    @cached_property
    def _task(self):
        from ..tasks import data

        return data.load(self.recipe.tasks[0].data, self.fits.weights.backbone["data_config"], self.recipe.seed)

    def _accuracy(self, bank: TemplateBank, resolution: int, on_epoch: Callable | None) -> float:
        import torch

        from ..reparam import attach, coefficients, freeze
        from ..tasks.module import fit

        settings = self.recipe.train.model_copy(update={"epochs": self.recipe.tune.accuracy_epochs})
        torch.manual_seed(self.recipe.seed)
        model = attach(sources.rebuild(bank.base(), num_classes=len(self._task.classes)), bank, resolution)
        head = freeze(model, bank.backbone["head"])
        rates = [
            {"params": list(head.parameters()), "lr": settings.head_lr or settings.lr},
            {"params": coefficients(model), "lr": settings.lr, "weight_decay": 0.0},
        ]
        return fit(model, self._task, settings, rates, self.recipe.seed, bank.hash, on_epoch).validation
