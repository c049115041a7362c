"""recast_gen: a pretrained network as shared templates and tiny coefficients.

Every public name is imported on first use, so that generation on a device needs numpy alone.
"""

from importlib import import_module

_NAMES = {
    "api": "families mimic mimic_vae mimic_tokens moments",
    "bank.bank": "TemplateBank",
    "bank.saved": "load_bank pack unpack",
    "bank.tokens": "TokenBank load_tokens",
    "bank.generation": "generate",
    "bank.sampling": "sample interpolate",
    "mimicry.norms": "with_norms",
    "mimicry.extension": "extend",
    "model.attach": "attach coefficients",
    "model.adapters.apply": "detach bake freeze add_adapter remove_adapter",
    "model.learning_rates": "rates",
    "model.switching": "save_task load_task",
    "model.library": "TaskLibrary",
    "model.export": "to_onnx to_peft to_folder",
    "errors": "RecastError",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = list(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'recast_gen' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__():
    return sorted(__all__)
