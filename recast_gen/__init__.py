"""recast_gen: a pretrained network as shared templates and tiny coefficients.

Every public name is imported on first use, so that generation on a device needs numpy alone.  Where things are, from
the top down, each room importing from lower ones alone:

    cli         the `recast` command
    pipelines   the stages of a recipe; the report and its pictures
    tuning      studies of template counts
    tasks       a task's images (`readers`), training, heads (`heads`), predictions
    peft        RECAST inside Hugging Face's PEFT
    api         the functions that take a model or a path
    mimicry     makes banks: closed form, gradient descent, the VAE and its loss (`vae`), populations
    model       a bank on a live network: attach, adapters, switching, export
    bank        mixes templates to weights (`templates`); banks and task files, verified (`saved`, `taskfile`)
    weights     named tensors: checkpoints, families of layers, a fused qkv in three (`qkv`)
    recipe      what a recipe may say
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__: str  # of the installed distribution

if TYPE_CHECKING:  # what type checkers and editors read; a test holds it equal to the names below
    from .api import coalesce as coalesce
    from .api import families as families
    from .api import grow as grow
    from .api import mimic as mimic
    from .api import mimic_tokens as mimic_tokens
    from .api import mimic_vae as mimic_vae
    from .api import moments as moments
    from .api import project as project
    from .bank.bank import TemplateBank as TemplateBank
    from .bank.generation import generate as generate
    from .bank.merging import merge_tasks as merge_tasks
    from .bank.population import Population as Population
    from .bank.population import load_population as load_population
    from .bank.sampling import interpolate as interpolate
    from .bank.sampling import sample as sample
    from .bank.saved import load_bank as load_bank
    from .bank.saved import pack as pack
    from .bank.saved import unpack as unpack
    from .bank.saved_tokens import load_tokens as load_tokens
    from .bank.tokens import TokenBank as TokenBank
    from .errors import RecastError as RecastError
    from .mimicry.extension import extend as extend
    from .mimicry.few_bits import quantise as quantise
    from .mimicry.norms import with_norms as with_norms
    from .mimicry.ordering import nest as nest
    from .model.adapters.apply import add_adapter as add_adapter
    from .model.adapters.apply import remove_adapter as remove_adapter
    from .model.attach import attach as attach
    from .model.attach import coefficients as coefficients
    from .model.counting import print_trainable_parameters as print_trainable_parameters
    from .model.export import to_folder as to_folder
    from .model.export import to_onnx as to_onnx
    from .model.graph import to_graph as to_graph
    from .model.learning_rates import rates as rates
    from .model.library import TaskLibrary as TaskLibrary
    from .model.peft_export import to_peft as to_peft
    from .model.saving import save_task as save_task
    from .model.switching import load_task as load_task
    from .model.tying import tie as tie
    from .model.verbs import bake as bake
    from .model.verbs import detach as detach
    from .model.verbs import freeze as freeze
    from .tasks.adapt import adapt as adapt
    from .tasks.evaluation import evaluate as evaluate
    from .tasks.prediction import predict as predict
    from .tasks.router import router as router
    from .tasks.soup import predict_task as predict_task

_NAMES = {
    "api": "families mimic mimic_vae mimic_tokens moments project grow coalesce",
    "bank.bank": "TemplateBank",
    "bank.saved": "load_bank pack unpack",
    "bank.tokens": "TokenBank",
    "bank.saved_tokens": "load_tokens",
    "bank.generation": "generate",
    "bank.population": "Population load_population",
    "bank.sampling": "sample interpolate",
    "bank.merging": "merge_tasks",
    "mimicry.norms": "with_norms",
    "mimicry.extension": "extend",
    "mimicry.few_bits": "quantise",
    "mimicry.ordering": "nest",
    "model.attach": "attach coefficients",
    "model.adapters.apply": "add_adapter remove_adapter",
    "model.tying": "tie",
    "model.verbs": "freeze detach bake",
    "model.counting": "print_trainable_parameters",
    "model.learning_rates": "rates",
    "model.saving": "save_task",
    "model.switching": "load_task",
    "model.library": "TaskLibrary",
    "model.export": "to_onnx to_folder",
    "model.peft_export": "to_peft",
    "model.graph": "to_graph",
    "tasks.adapt": "adapt",
    "tasks.evaluation": "evaluate",
    "tasks.prediction": "predict",
    "tasks.router": "router",
    "tasks.soup": "predict_task",
    "errors": "RecastError",
}
_MOVED = {  # modules by their names in 0.1.0
    "generation": "bank.generation", "sources": "weights.sources", "grouping": "weights.selection",
}  # fmt: skip
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = list(_HOME)


if not TYPE_CHECKING:  # to a type checker an unknown name is an error

    def __getattr__(name: str):
        if name == "__version__":
            return import_module("importlib.metadata").version("recast-gen")
        if name in _MOVED:
            return import_module(f".{_MOVED[name]}", __name__)
        if name not in _HOME:
            raise AttributeError(f"module 'recast_gen' has no attribute {name!r}")
        return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
