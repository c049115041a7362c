"""The tuner that PEFT makes a model of: it puts a bank's layers in place of a network's."""

from typing import Any

from peft.tuners.tuners_utils import BaseTuner
from peft.utils import register_peft_method
from torch import nn

from ..errors import AttachError, listing
from ..model.attach import attached, checked
from ..weights.qkv import owner
from .config import NAME, RecastConfig
from .layer import RecastLayer


class RecastModel(BaseTuner):
    """A network under RECAST adapters; `peft.get_peft_model(model, RecastConfig(bank=...))` makes it."""

    prefix = f"{NAME}_"
    tuner_layer_cls = RecastLayer
    target_module_mapping: dict[str, list[str]] = {}

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict) -> Any:
        if peft_config.target_modules is not None:
            raise AttachError("target_modules: the bank says which layers it generates; fit it to other families.")
        peft_config.target_modules = sorted(peft_config.modules)
        return peft_config

    def _prepare_model(self, peft_config: Any, model: nn.Module) -> None:
        """All that can be wrong is found before a layer is replaced."""
        if attached(model):
            raise AttachError("This model has a bank attached: rg.detach(model) first.")
        bank, modules = peft_config.opened, dict(model.named_modules())
        if inner := [path for path in peft_config.modules if path in modules and _has_layers(modules[path])]:
            raise AttachError(
                f"{listing(inner, 4)} hold layers besides the tensors that the bank generates, and PEFT replaces whole "
                "layers: fit the bank without that family."
            )
        layers = [module for module in modules.values() if isinstance(module, RecastLayer)]
        before = [layer._disable_adapters for layer in layers]
        try:
            for layer in layers:
                layer._disable_adapters = True  # the base's tensors are compared
            planned = checked(model, bank, peft_config.resolution)
        finally:
            for layer, disabled in zip(layers, before):
                layer._disable_adapters = disabled
        shared = self.__dict__.setdefault("_templates", {})  # one module for all adapters of a bank
        by_module: dict = {}
        self.__dict__["_planned"] = by_module
        for name, plan in planned.items():
            family = bank.layers[name].names[0]
            plan.templates = shared.setdefault((bank.hash, family), plan.templates)
            by_module.setdefault(owner(name), {})[name] = plan

    @staticmethod
    def _check_target_module_exists(peft_config: Any, key: str) -> bool:
        return key in peft_config.modules

    def _create_and_replace(
        self, peft_config, adapter_name, target, target_name, parent, current_key, parameter_name=None
    ) -> None:  # fmt: skip
        layer = target if isinstance(target, RecastLayer) else RecastLayer(target)
        layer.add(adapter_name, self.__dict__["_planned"][current_key])
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)
        layer.set_adapter(self.active_adapters)


def _has_layers(module: nn.Module) -> bool:
    return not isinstance(module, RecastLayer) and any(True for _ in module.children())


register_peft_method(name=NAME, config_cls=RecastConfig, model_cls=RecastModel)
