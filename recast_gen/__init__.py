"""recast_gen: a pretrained network as shared templates and tiny coefficients.

Every public name is imported on first use, so that generation on a device needs numpy alone.
"""

from importlib import import_module

_HOME = {
    "families": "api", "mimic": "api", "mimic_vae": "api", "mimic_tokens": "api", "moments": "api",
    "with_norms": "norms", "extend": "extension",
    "TemplateBank": "bank", "load_bank": "bank", "pack": "bank", "unpack": "bank",
    "TokenBank": "tokens.bank", "load_tokens": "tokens.bank",
    "generate": "generation", "sample": "sampling", "interpolate": "sampling",
    "attach": "reparam", "coefficients": "reparam", "detach": "adapter", "bake": "adapter", "freeze": "adapter",
    "add_adapter": "adapter", "remove_adapter": "adapter",
    "rates": "learning_rates",
    "save_task": "switching", "load_task": "switching", "TaskLibrary": "library",
    "to_onnx": "export", "to_peft": "export", "to_folder": "export",
    "RecastError": "errors",
}  # fmt: skip
__all__ = list(_HOME)


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module 'recast_gen' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__():
    return sorted(__all__)
