"""An adapter changes nothing until it is trained, trains nothing else, and comes off without a trace."""

import copy

import pytest
import torch
from torch import nn

import recast_gen as rg
from recast_gen.errors import AttachError
from recast_gen.model.adapters import apply

FITS = {
    "vit": ("piggyback", "melo", "adaptformer", "contracon", "codyra", "prompts"),
    "cnn": ("piggyback", "clr"),
    "own": ("piggyback", "clr"),
}
FOLDING = ("piggyback", "melo", "contracon", "codyra")


def cases(names=tuple(apply.ADAPTERS)):
    """(architecture, adapter) of every pair that fits."""
    pairs = [(kind, name) for kind, fitting in FITS.items() for name in fitting if name in names]
    return pytest.mark.parametrize(("kind", "name"), pairs, ids=["-".join(pair) for pair in pairs])


@pytest.fixture
def make(request):
    """(kind, with a bank?) -> a pico model and its architecture."""

    def made(kind: str, bank: bool = True):
        architecture = request.getfixturevalue(kind)
        model = architecture()
        return (rg.attach(model, architecture.bank(model), resolution=2) if bank else model), architecture

    return made


def train(model: nn.Module, seed: int = 1) -> None:
    """Random values for what the adapter trains: half of the masks' bits go."""
    generator = torch.Generator().manual_seed(seed)
    for part in apply.added(model).values():
        for parameter in part.parameters():
            scale = 0.01 if part.name == "piggyback" else 0.3
            parameter.data += scale * torch.randn(parameter.shape, generator=generator).to(parameter)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    after = model.state_dict()
    return list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


@cases()
@pytest.mark.parametrize("bank", [True, False])
def test_a_new_adapter_leaves_the_forward_as_it_is_and_comes_off_bit_for_bit(make, kind, name, bank):
    model, architecture = make(kind, bank)
    before, expected = state(model), model(architecture.batch())
    names, parameters = [name for name, _ in model.named_parameters()], [id(p) for p in model.parameters()]
    tensors = rg.add_adapter(model, name, head=architecture.head)
    assert torch.equal(model(architecture.batch()), expected)
    train(model)
    assert not torch.allclose(model(architecture.batch()), expected, atol=1e-3)
    assert len(tensors) >= 2 and all(id(tensor) not in parameters for tensor in tensors.values())
    rg.remove_adapter(model)
    assert same(model, before) and torch.equal(model(architecture.batch()), expected)
    assert [name for name, _ in model.named_parameters()] == names and [id(p) for p in model.parameters()] == parameters
    assert not any(module._forward_hooks for module in model.modules())
    rg.add_adapter(model, name, head=architecture.head)
    assert torch.equal(model(architecture.batch()), expected)


@cases()
@pytest.mark.parametrize("coefficients", [True, False])
def test_gradients_reach_all_of_the_adapter_and_nothing_that_is_frozen(make, kind, name, coefficients):
    model, architecture = make(kind)
    tensors = rg.add_adapter(model, name, head=architecture.head)
    head = rg.freeze(model, architecture.head, coefficients=coefficients)
    train(model)
    wanted = [*tensors.values(), *head.parameters(), *(rg.coefficients(model) if coefficients else [])]
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in wanted}
    model(architecture.batch()).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in wanted)
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@pytest.fixture
def learnt(make):
    """Makes a model with a trained adapter on; its architecture, logits of a batch, and a copy of it."""

    def made(kind, name, bank) -> tuple:
        model, architecture = make(kind, bank)
        rg.add_adapter(model, name, head=architecture.head)
        train(model)
        return model, architecture, model(architecture.batch()), copy.deepcopy(model)

    return made


@cases()
@pytest.mark.parametrize("bank", [True, False])
def test_copies_and_state_dicts_carry_an_adapter(make, learnt, kind, name, bank):
    model, architecture, expected, twin = learnt(kind, name, bank)
    other = make(kind, bank)[0]
    rg.add_adapter(other, name, head=architecture.head, seed=3)
    other.load_state_dict(model.state_dict(), strict=True)
    train(model, seed=2)
    assert torch.equal(twin(architecture.batch()), expected) and torch.equal(other(architecture.batch()), expected)
    rg.remove_adapter(model)
    assert torch.equal(twin(architecture.batch()), expected)
    assert same(rg.remove_adapter(twin), state(model))


@cases()
@pytest.mark.parametrize("bank", [True, False])
def test_detach_takes_an_adapter_off_too_and_bake_keeps_what_it_did(learnt, kind, name, bank):
    model, architecture, expected, twin = learnt(kind, name, bank)
    assert same(rg.detach(model), architecture().state_dict())
    if name in FOLDING:
        plain = architecture(seed=5)
        plain.load_state_dict(rg.bake(twin).state_dict(), strict=True)
        assert torch.equal(plain(architecture.batch()), expected)
    else:
        with pytest.raises(AttachError, match=f"'{name}' adds layers"):
            rg.bake(twin)
        assert torch.equal(twin(architecture.batch()), expected)


@pytest.mark.parametrize(
    ("kind", "name"), [("own", "piggyback"), ("own", "clr"), ("vit", "melo"), ("vit", "adaptformer")]
)
def test_a_compiled_model_gives_the_same_logits(make, kind, name):
    model, architecture = make(kind)
    rg.add_adapter(model, name, head=architecture.head)
    train(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(architecture.batch()), model(architecture.batch()), rtol=1e-5, atol=1e-5)


@cases()
@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_an_adapter_has_and_follows_the_dtype_of_its_host(make, kind, name, dtype):
    model, architecture = make(kind)
    model.to(dtype)
    expected = model(architecture.batch().to(dtype))
    tensors = rg.add_adapter(model, name, head=architecture.head)
    assert torch.equal(model(architecture.batch().to(dtype)), expected)
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    off = apply.take_off(model)
    apply.put_on(model.float(), off)
    assert model(architecture.batch()).dtype == torch.float32


def test_the_same_seed_gives_the_same_start_and_touches_no_global_generator(vit):
    before = torch.random.get_rng_state()
    one, two, other = (rg.add_adapter(vit(), "melo", seed=seed, rank=2) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    downs = [name for name in one if name.endswith("down")]
    assert all(torch.equal(one[name], two[name]) and not torch.equal(one[name], other[name]) for name in downs)


def test_each_trains_as_many_numbers_as_its_paper_says(vit, cnn):
    def count(architecture, name, **options):
        return sum(p.numel() for p in rg.add_adapter(architecture(), name, head=architecture.head, **options).values())

    assert count(vit, "melo", rank=3) == 4 * 2 * 3 * (16 + 16)  # blocks, q and v, rank, in and out
    assert count(vit, "adaptformer", bottleneck=5) == 4 * (2 * 5 * 16 + 5 + 16)
    assert count(vit, "contracon", kernel=5) == 4 * 3 * 25
    layers = [module for path, module in vit().named_modules() if isinstance(module, nn.Linear) and path != "head"]
    assert count(vit, "codyra", rank=3) == sum(3 * (layer.in_features + layer.out_features + 1) for layer in layers)
    assert count(vit, "prompts", tokens=5) == sum(5 * 16 + block.attn.num_heads for block in vit().blocks)
    convolutions = [module for module in cnn().modules() if isinstance(module, nn.Conv2d)]
    assert count(cnn, "clr") == 9 * sum(module.out_channels for module in convolutions)
    assert count(cnn, "piggyback") == sum(module.weight.numel() for module in convolutions)


def test_melo_touches_the_rows_of_q_and_v_alone(vit):
    model = vit()
    before = model.blocks[0].attn.qkv.weight.detach().clone()
    rg.add_adapter(model, "melo")
    train(model)
    change = (model.blocks[0].attn.qkv.weight - before).detach().reshape(3, 16, 16)
    assert not change[1].any() and change[0].any() and change[2].any()
    assert max(torch.linalg.matrix_rank(change[part], tol=1e-4) for part in (0, 2)) == 4


def test_contracon_convolves_each_third_of_the_rows_with_a_kernel_of_its_own(vit):
    model = vit()
    before = model.blocks[0].attn.qkv.weight.detach().clone().reshape(3, 1, 16, 16)
    kernels = rg.add_adapter(model, "contracon", kernel=5)["blocks.0.attn.qkv.weight.kernels"]
    train(model)
    wanted = nn.functional.conv2d(before.transpose(0, 1), kernels[:, None], padding=2, groups=3)
    torch.testing.assert_close(model.blocks[0].attn.qkv.weight.reshape(1, 3, 16, 16), wanted)


def test_codyra_drops_what_its_gradient_does_not_want_and_stores_the_rest(vit):
    model = vit()
    rg.add_adapter(model, "codyra", head="head", rank=3, sparsity=0.5)
    part = apply.added(model)["blocks.0.attn.qkv.weight"]
    with torch.no_grad():
        part.up.normal_(), part.importance.copy_(torch.tensor([2.0, 0.1, -0.7]))
    change = part.up[:, [0, 2]] @ torch.diag(part.importance[[0, 2]]) @ part.down[[0, 2]]
    torch.testing.assert_close(part(torch.zeros(48, 16)), change)
    assert {leaf: array.shape for leaf, array in part.stored().items()} == {
        "down": (2, 16), "up": (48, 2), "importance": (2,),
    }  # fmt: skip
    part(torch.zeros(48, 16)).mul(0).sum().backward()  # nothing is wanted of it
    assert part.importance.grad.tolist() == [0.5, 0.5, -0.5]


def test_prompts_are_what_each_head_attends_to_among_learnt_tokens(vit):
    model, images = vit(), vit.batch()
    tensors = rg.add_adapter(model, "prompts", tokens=3)
    seen = []
    attention = model.blocks[0].attn
    attention.register_forward_hook(lambda module, given, output: seen.append((given[0], output)))
    with torch.no_grad():
        model(images)
        tensors["blocks.0.attn.gates"].copy_(torch.arange(1.0, 1.0 + attention.num_heads))
        model(images)
        (tokens, plain), (_, prompted) = seen
        q, k, v = (
            part.unflatten(-1, (attention.num_heads, -1)).transpose(-3, -2)
            for part in (
                attention.qkv(tokens)[..., :16],
                *attention.qkv(tensors["blocks.0.attn.tokens"]).split(16, -1)[1:],
            )
        )
        found = nn.functional.scaled_dot_product_attention(
            q, k.expand(len(q), -1, -1, -1), v.expand(len(q), -1, -1, -1)
        )
        found = found * torch.arange(1.0, 1.0 + attention.num_heads)[:, None, None]
        wanted = plain + found.transpose(1, 2).flatten(2) @ attention.proj.weight.T
    torch.testing.assert_close(prompted, wanted, rtol=1e-4, atol=1e-5)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.two.weight = self.one.weight

    def forward(self, images):
        return self.head(self.two(self.one(images)))


@pytest.mark.parametrize(
    ("kind", "name", "options", "message"),
    [
        ("cnn", "adaptformer", {}, r"finds nothing to act on.*fc1 and fc2.*piggyback, clr, melo"),
        ("cnn", "melo", {}, r"finds nothing to act on.*qkv"),
        ("vit", "clr", {}, r"finds nothing to act on.*convolutions"),
        ("vit", "melow", {}, "No adapter 'melow'. Did you mean 'melo'"),
        ("vit", "melo", {"ranks": 2}, "no option ranks. Did you mean 'rank'"),
        ("vit", "melo", {"rank": 0}, "rank=0: expected a whole number"),
        ("vit", "adaptformer", {"bottleneck": 1.5}, "bottleneck=1.5"),
        ("vit", "adaptformer", {"scale": -1}, "scale=-1"),
        ("vit", "contracon", {"kernel": 4}, "kernel=4: expected an odd"),
        ("vit", "codyra", {"threshold": 1.0}, "threshold=1.0"),
        ("vit", "codyra", {"sparsity": -1}, "sparsity=-1"),
        ("vit", "prompts", {"tokens": 0}, "tokens=0"),
        ("cnn", "prompts", {}, "finds nothing to act on.*attention"),
        ("vit", "piggyback", {"threshold": 1.0}, "threshold=1.0"),
        ("vit", "piggyback", {"head": "heads"}, "no module 'heads'. Did you mean 'head'"),
    ],
)
def test_what_cannot_be_is_refused_by_name_and_changes_nothing(make, kind, name, options, message):
    model, architecture = make(kind)
    before = state(model)
    with pytest.raises(AttachError, match=message):
        rg.add_adapter(model, name, **({"head": architecture.head} | options))
    assert same(model, before) and not any(module._forward_hooks for module in model.modules())


def test_a_second_adapter_a_bank_after_it_and_a_tied_weight_are_refused(vit):
    model = vit()
    rg.add_adapter(model, "piggyback")
    with pytest.raises(AttachError, match=r"the adapter 'piggyback' on.*rg\.remove_adapter"):
        rg.add_adapter(model, "melo")
    with pytest.raises(AttachError, match=r"rg\.remove_adapter"):
        rg.attach(model, vit.bank(vit()))
    with pytest.raises(AttachError, match=r"one\.weight and two\.weight are one tensor"):
        rg.add_adapter(Tied(), "piggyback")


def test_a_module_whose_bias_comes_from_a_bank_may_have_an_adapter_on_its_weight(own):
    model = own()
    rg.attach(model, rg.mimic(model, families=["linears.*.bias", "convs.*@8x8x3x3"], groups=1))
    before, expected, copies = state(model), model(own.batch()), [copy.deepcopy(model)]
    rg.add_adapter(model, "piggyback", head="classifier")
    copies.append(copy.deepcopy(model))
    assert torch.equal(model(own.batch()), expected)
    train(model)
    rg.remove_adapter(model)
    assert same(model, before)
    assert all(torch.equal(twin(own.batch()), expected) for twin in [model, *copies])
    assert same(rg.detach(copies[1]), own().state_dict()) and same(rg.detach(model), own().state_dict())
    assert same(rg.detach(copies[0]), own().state_dict())
