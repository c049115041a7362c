"""The ways to adapt a frozen network that `adaptation.py` compares: what each trains, and how it is stored."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from backbones import Backbone
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import recast_gen as rg
from recast_gen.files import save_tensors
from recast_gen.tensors import to_numpy

KINDS = ("coefficients", "norms", "adapter", "head")


@dataclass
class Prepared:
    """A model and what of it a task trains, by kind.  save: writes the task's file, returns its size in bytes."""

    model: nn.Module
    trained: dict[str, list[nn.Parameter]]
    save: Callable[[Path], int]
    bank: rg.TemplateBank | None = None
    frozen: bool = True

    @property
    def counts(self) -> dict[str, int]:
        return {kind: sum(p.numel() for p in self.trained.get(kind, [])) for kind in KINDS}


@dataclass(frozen=True)
class Method:
    """A way to adapt.  rate: where the search for the learning rate of what it trains besides the head starts.

    features: only the head trains, on the frozen network's features.  curve: the name its points share in the picture.
    """

    name: str
    prepare: Callable[[Backbone, int], Prepared]
    rate: float | None = None
    features: bool = False
    only: str = ""  # a part of the names of the backbones that it fits
    curve: str = ""


def _head(backbone: Backbone, model: nn.Module) -> list[nn.Parameter]:
    return list(getattr(model, backbone.head).parameters())


def _plain(backbone: Backbone, model: nn.Module, chosen: dict[str, list[nn.Parameter]], **more) -> Prepared:
    """Trains `chosen` and the head, and stores them by their names in the model."""
    trained = chosen | {"head": _head(backbone, model)}
    model.requires_grad_(False)
    for parameter in (parameter for parameters in trained.values() for parameter in parameters):
        parameter.requires_grad_(True)

    def save(path: Path) -> int:
        kept = {name: to_numpy(name, p.detach()) for name, p in model.named_parameters() if p.requires_grad}
        if not more.get("frozen", True):  # batch norm's running statistics drift
            kept |= {name: to_numpy(name, buffer) for name, buffer in model.named_buffers()}
        return save_tensors(path, kept, {"format": "pt"})

    return Prepared(model, trained, save, **more)


def probe(backbone: Backbone, classes: int) -> Prepared:
    """The head alone, on features."""
    model = nn.Sequential()
    model.add_module(backbone.head, getattr(backbone(classes), backbone.head))
    return _plain(backbone, model, {})


def full(backbone: Backbone, classes: int) -> Prepared:
    model = backbone(classes)
    head = set(map(id, _head(backbone, model)))
    return _plain(backbone, model, {"adapter": [p for p in model.parameters() if id(p) not in head]}, frozen=False)


def norms(backbone: Backbone, classes: int) -> Prepared:
    """Scales and shifts of all normalisation layers; running statistics stay."""
    model = backbone(classes)
    layers = [module for module in model.modules() if isinstance(module, _BatchNorm | nn.LayerNorm)]
    return _plain(backbone, model, {"norms": [p for layer in layers for p in layer.parameters()]})


def bitfit(backbone: Backbone, classes: int) -> Prepared:
    """All biases, those of normalisation layers too (Zaken et al., 2022, https://arxiv.org/abs/2106.10199)."""
    model, kinds = backbone(classes), {"norms": [], "adapter": []}
    for path, module in model.named_modules():
        if path != backbone.head and isinstance(getattr(module, "bias", None), nn.Parameter):
            kinds["norms" if isinstance(module, _BatchNorm | nn.LayerNorm) else "adapter"].append(module.bias)
    return _plain(backbone, model, kinds)


def peft(make: Callable[[list[str], Backbone], object]) -> Callable:
    """A PEFT config, given the names of the backbone's layers, as a preparation."""

    def prepare(backbone: Backbone, classes: int) -> Prepared:
        from peft import get_peft_model

        model = backbone(classes)
        kinds = nn.Linear if backbone.blocks is None else nn.Conv2d
        layers = [name for name, m in model.named_modules() if isinstance(m, kinds) and name != backbone.head]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = get_peft_model(model, make(layers, backbone)).get_base_model()
        adapter = [p for name, p in model.named_parameters() if p.requires_grad and not name.startswith(backbone.head)]
        return _plain(backbone, model, {"adapter": adapter})

    return prepare


def lora(rank: int) -> Callable:
    """Hu et al., 2021, https://arxiv.org/abs/2106.09685, on every linear layer or convolution; alpha = rank."""

    def config(layers, _):
        from peft import LoraConfig

        return LoraConfig(r=rank, lora_alpha=rank, target_modules=layers)

    return peft(config)


def vera(layers: list[str], _):
    """Kopiczko et al., 2023, https://arxiv.org/abs/2310.11454: rank 16; PEFT has it for linear layers alone."""
    from peft import VeraConfig

    return VeraConfig(r=16, target_modules=layers, vera_dropout=0.0, projection_prng_key=0, save_projection=False)


def ia3(layers: list[str], backbone: Backbone):
    """Liu et al., 2022, https://arxiv.org/abs/2205.05638: scales of the outputs of all convolutions; in a transformer
    those of the fused query, key and value, and of the inputs of the second layer of the MLP."""
    from peft import IA3Config

    if backbone.blocks is not None:
        return IA3Config(target_modules=layers, feedforward_modules=[])
    chosen = [name for name in layers if name.endswith(("qkv", "mlp.fc2"))]
    return IA3Config(target_modules=chosen, feedforward_modules=[name for name in chosen if name.endswith("fc2")])


def recast(resolution: int | str, own: bool = False) -> Callable:
    """Coefficients at a resolution; own: a layer's only template is the layer, else all layers of its shape."""

    def prepare(backbone: Backbone, classes: int) -> Prepared:
        model, bank = backbone(classes), backbone.bank(**({"group_size": 1} if own else {}))
        rg.attach(model, bank, resolution)
        rg.freeze(model, backbone.head)
        trained = {"coefficients": rg.coefficients(model), "head": _head(backbone, model)}
        return Prepared(model, trained, lambda path: rg.save_task(path, model, bank, backbone.head), bank)

    return prepare


METHODS = {
    method.name: method
    for method in (
        Method("linear probe", probe, features=True),
        Method("norm tuning", norms, 0.01),
        Method("BitFit", bitfit, 0.01),
        Method("(IA)3", peft(ia3), 0.03),
        Method("VeRA", peft(vera), 0.03, only="vit"),
        Method("LoRA r=1", lora(1), 0.006, curve="LoRA"),
        *(Method(f"RECAST {each}", recast(each), 0.03, curve="RECAST") for each in (1, 4, 16)),
        *(Method(f"RECAST own {each}", recast(each, True), 0.03, curve="RECAST own") for each in (4, 16, "channel")),
        Method("full fine-tuning", full, 0.002),
        *(Method(f"LoRA r={rank}", lora(rank), 0.006, curve="LoRA") for rank in (2, 4, 8)),
        *(Method(f"RECAST {each}", recast(each), 0.03, curve="RECAST") for each in (2, 8, "channel")),
    )
}


def rates(prepared: Prepared, own: float, head: float) -> list[dict]:
    """torch's parameter groups: no decay of what starts at the backbone's own values."""
    return [
        {"params": parameters, "lr": head if kind == "head" else own}
        | ({} if kind == "head" else {"weight_decay": 0.0})
        for kind, parameters in prepared.trained.items()
        if parameters
    ]


def seeded(method: Method, backbone: Backbone, classes: int, seed: int) -> Prepared:
    """A preparation whose new numbers come from the seed; a network of convolutions computes in bfloat16.

    (Its master weights stay float32; that and the order of its axes spare 40 % of a step's time on a CPU.)
    """
    torch.manual_seed(seed)
    prepared = method.prepare(backbone, classes)
    if backbone.blocks is not None and not method.features:
        inner = prepared.model.forward

        def forward(images: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return inner(images.contiguous(memory_format=torch.channels_last)).float()

        prepared.model.forward = forward
    return prepared
