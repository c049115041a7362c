"""The ways to adapt a frozen network that `adaptation.py` compares: what each trains, and how it is stored."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import recast_gen as rg
from recast_gen.bank.taskfile import record
from recast_gen.bank.tying import tie_of
from recast_gen.model.attach import attached
from recast_gen.model.tying import Tying
from recast_gen.tasks.analytic import ridge_start
from recast_gen.tasks.data import Splits
from recast_gen.tasks.heads import make
from recast_gen.weights.files import save_tensors
from recast_gen.weights.store import kind_of
from recast_gen.weights.tensors import to_numpy

from ..backbones import Backbone
from . import own_peers, peers

COEFFICIENTS = 0.03  # where the search for their learning rate starts
BESIDE = {"coefficients": 0.3}  # their rate over that of norms or an adapter that trains beside them
KINDS = ("coefficients", "norms", "adapter", "head")
HEADS = {  # name in the tables -> in `recast_gen.tasks.heads`
    "nearest class mean": "means", "ridge": "ridge", "ridge on 1024 random features": "random_ridge",
    "FeTrIL": "translated", "class statistics (SLCA)": "statistics",
}  # fmt: skip
FROM_RIDGE = " from ridge"  # ends the names of methods whose head starts from ridge regression; others start at random


def stored(path: Path) -> int:
    """Numbers in a task's file."""
    if kind_of(path) == "task":
        return sum(math.prod(array.shape) for _, array in record(path).arrays)
    with safe_open(path, "numpy") as file:
        return sum(file.get_tensor(name).size for name in file.keys())


@dataclass
class Prepared:
    """A model and what of it a task trains, by kind.  save: writes the task's file, returns its size in bytes."""

    model: nn.Module
    trained: dict[str, list[nn.Parameter]]
    save: Callable[[Path], int]
    bank: rg.TemplateBank | None = None
    frozen: bool = True
    faster: dict[str, float] = field(default_factory=dict)  # factors of the method's rate, by kind
    tying: Tying | None = None  # of coefficients that are one number

    @property
    def counts(self) -> dict[str, int]:
        found = {kind: sum(p.numel() for p in self.trained.get(kind, [])) for kind in KINDS}
        return found | ({"coefficients": self.tying.count, "norms": 0} if self.tying else {})


@dataclass(frozen=True)
class Method:
    """A way to adapt, by gradient (prepare) or by a head of `recast_gen.tasks.heads` (solve, from features and a seed).

    rate: where the search for the learning rate of what it trains besides the head starts.  features: only the head is
    new, on the frozen network's features.  only: a part of the names of the backbones that it fits.  curve: the name
    that its points share in the picture.  start: "" or FROM_RIDGE.
    """

    name: str
    prepare: Callable[[Backbone, int], Prepared] | None
    rate: float | None = None
    features: bool = False
    only: str = ""
    curve: str = ""
    solve: Callable[[Splits, int], nn.Module] | None = None
    start: str = ""

    def from_ridge(self) -> "Method":
        curve = (self.curve or self.name) + FROM_RIDGE
        return replace(self, name=self.name + FROM_RIDGE, curve=curve, start=FROM_RIDGE)


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


def closed(backbone: Backbone, model: nn.Module) -> Prepared:
    """A head of `recast_gen.tasks.heads`; what it holds beyond a linear head on the features counts as an adapter."""
    *body, head = model if isinstance(model, nn.Sequential) else [model]
    size = sum(p.numel() for p in head.parameters())
    plain = head.out_features * (getattr(backbone(), backbone.head).in_features + 1)

    def save(path: Path) -> int:
        return save_tensors(path, {name: to_numpy(name, p.detach()) for name, p in head.named_parameters()}, {})

    kinds = {"head": [torch.zeros(plain)], "adapter": [torch.zeros(size - plain)]}  # random layers are a seed
    return Prepared(model, kinds, save)


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
        kinds = nn.Conv2d if backbone.convolutional else nn.Linear
        layers = [
            name
            for name, m in model.named_modules()
            if isinstance(m, kinds) and name != backbone.head and getattr(m, "groups", 1) == 1  # PEFT has no other
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = get_peft_model(model, make(layers, backbone)).get_base_model()
        adapter = [p for name, p in model.named_parameters() if p.requires_grad and not name.startswith(backbone.head)]
        return _plain(backbone, model, {"adapter": adapter})

    return prepare


def lora(rank: int, dora: bool = False) -> Callable:
    """Hu et al., 2021, https://arxiv.org/abs/2106.09685, on every linear layer or convolution; alpha = rank.

    dora: with a magnitude an output (Liu et al., 2024, https://arxiv.org/abs/2402.09353).
    """

    def config(layers, _):
        from peft import LoraConfig

        return LoraConfig(r=rank, lora_alpha=rank, target_modules=layers, use_dora=dora)

    return peft(config)


def one_bit_lora(rank: int) -> Callable:
    """LoRA and head in 1 bit: see `own_peers.one_bit`."""

    def prepare(backbone: Backbone, classes: int) -> Prepared:
        prepared = lora(rank)(backbone, classes)
        own_peers.one_bit(prepared.model)

        def save(path: Path) -> int:
            named = [(name, p) for name, p in prepared.model.named_parameters() if p.requires_grad]
            return save_tensors(path, own_peers.packed(named), {"format": "pt"})

        return replace(prepared, save=save)

    return prepare


def ssf(backbone: Backbone, classes: int) -> Prepared:
    """See `own_peers.ssf`."""
    model = backbone(classes)
    return _plain(backbone, model, {"adapter": own_peers.ssf(model, backbone.head)})


def vera(layers: list[str], _):
    """Kopiczko et al., 2023, https://arxiv.org/abs/2310.11454: rank 16; PEFT has it for linear layers alone."""
    from peft import VeraConfig

    return VeraConfig(r=16, target_modules=layers, vera_dropout=0.0, projection_prng_key=0, save_projection=False)


def ia3(layers: list[str], backbone: Backbone):
    """Liu et al., 2022, https://arxiv.org/abs/2205.05638: scales of the outputs of all convolutions; in a transformer
    those of the fused query, key and value, and of the inputs of the second layer of the MLP."""
    from peft import IA3Config

    if backbone.convolutional:
        return IA3Config(target_modules=layers, feedforward_modules=[])
    chosen = [name for name in layers if name.endswith(("qkv", "mlp.fc2"))]
    return IA3Config(target_modules=chosen, feedforward_modules=[name for name in chosen if name.endswith("fc2")])


def recast(
    resolution: dict[str, int | str], own: bool = False, norms: str = "none", blocks: int = 1, random: int = 0,
    every: bool = False, even: bool = False, rank: int = 0, tie: str | int = "none",
) -> Callable:  # fmt: skip
    """Coefficients at resolutions by globs over families of matrices and kernels.

    own: a layer's only template is the layer, else all layers of its shape.
    norms: what of them is in the bank too; blocks: the resolution of shared ones; random: how many templates more.
    rank: of the layers' own singular templates.  tie: what of the coefficients is one number.
    every: also the 3x3 convolutions of which a ResNet has one alone.  even: beside norms, coefficients have their rate.
    """
    chosen = {"families": ("*.weight@*x3x3",)} if every else {}
    chosen |= {"group_size": 1} if own else {}

    def prepare(backbone: Backbone, classes: int) -> Prepared:
        model, bank = backbone(classes), backbone.bank(norms, **chosen)
        bank = rg.extend(bank, random) if random else bank
        bank = rg.extend(bank, source="singular", rank=rank) if rank else bank
        vectors = {name: blocks for name, family in bank.families.items() if len(family.shape) == 1}
        rg.attach(model, bank, resolution | vectors)
        rg.freeze(model, backbone.head)
        kinds = {"coefficients": [], "norms": []}
        for module, leaf, _ in attached(model).values():
            kind = "norms" if getattr(module, leaf).ndim == 1 else "coefficients"
            kinds[kind].append(module.parametrizations[leaf].original)
        trained = kinds | {"head": _head(backbone, model)}
        save = partial(rg.save_task, model=model, bank=bank, head=backbone.head, tie=tie)
        tied = tie_of(tie)
        tying = Tying(model, bank, tied) if tied else None
        return Prepared(model, trained, save, bank, faster={} if even or norms == "none" else BESIDE, tying=tying)

    return prepare


def integration(adapter: str, coefficients: bool) -> Callable:
    """One of the package's adapters, with a coefficient per layer and template beside it or without."""

    def prepare(backbone: Backbone, classes: int) -> Prepared:
        model, bank = backbone(classes), backbone.bank()
        rg.attach(model, bank)
        rg.freeze(model, backbone.head, coefficients)
        added = rg.add_adapter(model, adapter, backbone.head, seed=torch.initial_seed())
        trained = {"adapter": list(added.values()), "head": _head(backbone, model)}
        if coefficients:
            trained["coefficients"] = rg.coefficients(model)
        save = partial(rg.save_task, model=model, bank=bank, head=backbone.head)
        return Prepared(model, trained, save, bank, faster=BESIDE)

    return prepare


def integrations(name: str, rate: float, only: str) -> list["Method"]:
    """An adapter without and with coefficients; its own rate is where the search starts, and both move together."""
    adapter = name.lower()
    return [
        Method(name, integration(adapter, False), rate, only=only, curve=name),
        Method(f"{name} + RECAST 1", integration(adapter, True), rate, only=only, curve=name),
    ]


def dial(prefix: str, values: tuple, only: str = "", **settings) -> list["Method"]:
    """RECAST at several resolutions: one curve."""
    return [
        Method(f"{prefix} {value}", recast({"*": value}, **settings), COEFFICIENTS, only=only, curve=prefix)
        for value in values
    ]


def randoms(prefix: str, resolution: int | str, counts: tuple, only: str = "", **settings) -> list["Method"]:
    """RECAST with so many random templates more: one curve for all resolutions."""
    return [
        Method(
            f"{prefix} {resolution} random {more}", recast({"*": resolution}, random=more, **settings), COEFFICIENTS,
            only=only, curve=f"{prefix} random",
        )
        for more in counts
    ]  # fmt: skip


def first_of(head: str) -> Callable:
    """A head that grows task by task, after its first."""

    def solved(of: Splits, seed: int) -> nn.Module:
        features, labels = of.train.tensors
        return make(head, features.shape[1], seed).fit(features, labels, of.validation.tensors).solve().float()

    return solved


METHODS = {
    method.name: method
    for method in (
        *(Method(name, None, features=True, solve=first_of(head)) for name, head in HEADS.items() if name != "FeTrIL"),
        Method("linear probe", probe, features=True),
        Method("norm tuning", norms, 0.01),
        Method("BitFit", bitfit, 0.01),
        Method("LoRA r=1", lora(1), 0.006, curve="LoRA"),
        *dial("RECAST", (1,)),
        *dial("RECAST norms", (1,), norms="affine"),
        *dial("RECAST shared norms", (1,), norms="shared"),
        *dial("RECAST", (4, 16)),
        *dial("RECAST norms", (4, 16), norms="affine"),
        *dial("RECAST own", (1, 16), own=True),
        *dial("RECAST shifts", (4,), norms="shifts"),
        *dial("RECAST scales", (1, 4), norms="scales"),
        Method("VeRA", peft(vera), 0.03, only="vit"),
        Method("(IA)3", peft(ia3), 0.03),
        Method("full fine-tuning", full, 0.002),
        *(Method(f"LoRA r={rank}", lora(rank), 0.006, curve="LoRA") for rank in (2, 4, 8)),
        Method("DoRA r=1", lora(1, dora=True), 0.006),
        *integrations("CLR", 0.01, "resnet"),
        *integrations("MeLo", 0.005, "vit"),
        *integrations("AdaptFormer", 0.005, "vit"),
        *integrations("Piggyback", 0.0003, ""),
        *dial("RECAST", (2, 8, "channel")),
        *dial("RECAST own", (2, 4, "channel"), own=True),
        *dial("RECAST shared norms x4", (1, 4), norms="shared", blocks=4),
        *dial("RECAST norms", ("channel",), norms="affine"),
        Method("RECAST head", recast({"*.attn.*": "head"}), COEFFICIENTS, only="vit", curve="RECAST"),
        *dial("RECAST", (48,), only="cifar10_vit"),
        *dial("RECAST norms", (48,), only="cifar10_vit", norms="affine"),
        *dial("RECAST all own", ("channel",), only="resnet", own=True, every=True),
        *randoms("RECAST", 1, (32, 64)),
        *randoms("RECAST", 48, (4,), only="cifar10_vit"),
        *randoms("RECAST", "channel", (4,)),
        *randoms("RECAST scales", 1, (16,), norms="scales"),
        *randoms("RECAST own", "channel", (1, 2), own=True),
        *randoms("RECAST all own", "channel", (1,), only="resnet", own=True, every=True),
        *randoms("RECAST all", "channel", (4,), only="resnet", every=True),
        *dial("RECAST even norms", (16,), norms="affine", even=True),
        *dial("RECAST even norms", (48,), only="cifar10_vit", norms="affine", even=True),
        *(
            Method(f"RECAST singular {rank}", recast({"*": 1}, rank=rank), COEFFICIENTS, curve="RECAST singular")
            for rank in (2, 4, 8)
        ),
        *(
            Method(f"RECAST tied {tie}", recast({"*": 1}, rank=4, tie=tie), COEFFICIENTS, curve="RECAST tied")
            for tie in (64, 256)
        ),
        *(Method(f"FourierFT {n}", peft(peers.fourierft(n)), 0.03, only="vit", curve="FourierFT") for n in (4, 16)),
        *(Method(f"WaveFT {n}", peft(peers.waveft(n)), 0.03, only="vit", curve="WaveFT") for n in (4, 16)),
        *(Method(f"Uni-LoRA {n}", peft(peers.unilora(n)), 0.01, only="vit", curve="Uni-LoRA") for n in (64, 256)),
        *(Method(f"TinyLoRA {n}", peft(peers.tinylora(n)), 0.03, only="vit", curve="TinyLoRA") for n in (4, 16)),
        Method("VB-LoRA", peft(peers.vblora(48)), 0.01, only="cifar10_vit"),
        Method("RoAd", peft(peers.road), 0.01, only="vit"),
        *(Method(f"PSOFT {rank}", peft(peers.psoft(rank)), 0.01, only="vit", curve="PSOFT") for rank in (4, 8)),
        Method("C3A", peft(peers.c3a(48)), 0.03, only="cifar10_vit"),
        Method("SHiRA", peft(peers.shira), 0.01, only="vit"),
        Method("SSF", ssf, 0.01),
        Method("LoRA r=1 in 1 bit", one_bit_lora(1), 0.006),
    )
}
METHODS |= {other.name: other for method in METHODS.values() if method.prepare for other in [method.from_ridge()]}


def rates(prepared: Prepared, own: float, head: float) -> list[dict]:
    """torch's parameter groups: no decay of what starts at the backbone's own values."""
    return [
        {"params": parameters, "lr": head if kind == "head" else own * prepared.faster.get(kind, 1)}
        | ({} if kind == "head" else {"weight_decay": 0.0})
        for kind, parameters in prepared.trained.items()
        if parameters
    ]


def seeded(method: Method, backbone: Backbone, classes: int, seed: int, features: Splits | None = None) -> Prepared:
    """A preparation whose new numbers come from the seed; convolutions get their images channels last.

    (A step on a CPU takes less time in that order of the axes.)  features: of a head that starts from ridge regression.
    """
    torch.manual_seed(seed)
    prepared = method.prepare(backbone, classes)
    if method.start and features:
        own_peers.start(getattr(prepared.model, backbone.head), ridge_start(features).state_dict())
    if backbone.convolutional and not method.features:
        inner = prepared.model.forward
        prepared.model.forward = lambda images: inner(images.contiguous(memory_format=torch.channels_last))
    return prepared
