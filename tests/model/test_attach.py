"""Attaching a bank changes nothing but what is trained, and comes off without a trace."""

import copy
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import recast_gen as rg
from recast_gen.errors import AttachError, RecastError
from recast_gen.model import attach


def close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unchanged(model: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    after = model.state_dict()
    return after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def perturb(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    for parameter in rg.coefficients(model):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)


def attached(architecture, resolution: int = 1, **settings) -> nn.Module:
    model = architecture()
    return rg.attach(model, architecture.bank(model, **settings), resolution=resolution)


@pytest.mark.parametrize("resolution", [1, 2, 8])
@pytest.mark.parametrize("gauge", ["svd", "identity", "orthonormal"])
def test_an_exact_bank_leaves_the_forward_unchanged(architecture, resolution, gauge):
    images = architecture.batch()
    close(attached(architecture, resolution, gauge=gauge)(images), architecture()(images))


@pytest.mark.parametrize("settings", [{"groups": 2}, {"sets": 3}, {"by": "shape"}])
def test_the_forward_is_unchanged_for_groups_sets_and_families_by_shape(own, settings):
    model, expected = own(), own()(own.batch())
    families = None if settings.get("by") else own.families
    close(rg.attach(model, rg.mimic(model, families=families, **settings))(own.batch()), expected)


def test_a_loaded_bank_leaves_the_forward_of_a_model_filled_from_it_unchanged(architecture, tmp_path):
    from recast_gen.weights import networks

    architecture.bank(architecture(), templates=2).save(tmp_path / "bank.zarr")
    bank, model = rg.load_bank(tmp_path / "bank.zarr"), architecture(seed=5)
    networks.fill(model, bank.base())
    expected = model(architecture.batch())
    close(rg.attach(model, bank)(architecture.batch()), expected)


def test_detach_brings_the_original_back_bit_for_bit(architecture):
    model = architecture()
    before, shapes = snapshot(model), [(name, type(module)) for name, module in model.named_modules()]
    rg.attach(model, architecture.bank(model, templates=2), resolution=2)
    perturb(model)
    rg.detach(model)
    assert unchanged(model, before)
    assert [(name, type(module)) for name, module in model.named_modules()] == shapes
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_detach_keeps_what_was_frozen_frozen(own):
    model = own().requires_grad_(False)
    rg.detach(rg.attach(model, own.bank(model)))
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_an_attached_model_takes_the_memory_format_of_images(architecture):
    model = attached(architecture)
    before = model(architecture.batch())
    close(model.to(memory_format=torch.channels_last)(architecture.batch()), before)


def test_detach_gives_the_original_in_the_dtype_the_model_was_moved_to(architecture):
    model = attached(architecture).double()
    rg.detach(model)
    assert {name: tensor.dtype for name, tensor in model.state_dict().items()} == {
        name: tensor.dtype for name, tensor in architecture().double().state_dict().items()
    }
    assert unchanged(model, architecture().double().state_dict())


def test_a_bank_can_be_attached_again_after_detach(vit):
    model = vit()
    bank = vit.bank(model)
    rg.attach(rg.detach(rg.attach(model, bank)), bank, resolution=4)
    close(model(vit.batch()), vit()(vit.batch()))


def test_bake_keeps_the_adapted_logits_in_plain_modules(architecture):
    model = attached(architecture, resolution=2)
    perturb(model)
    adapted = model(architecture.batch())
    assert not torch.allclose(adapted, architecture()(architecture.batch()), atol=1e-3)
    state = rg.bake(model).state_dict()
    assert torch.equal(model(architecture.batch()), adapted)
    fresh = architecture(seed=9)  # for the ViT and the CNN, a plain timm model
    assert state.keys() == fresh.state_dict().keys()
    fresh.load_state_dict(state, strict=True)
    assert torch.equal(fresh(architecture.batch()), adapted)


def test_only_coefficients_and_the_head_are_trainable_after_freeze(architecture):
    model = attached(architecture, resolution=2)
    head = rg.freeze(model, head=architecture.head)
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert trainable == {id(parameter) for parameter in [*rg.coefficients(model), *head.parameters()]}
    rg.freeze(model, head="")
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in rg.coefficients(model)}
    with pytest.raises(AttachError, match=f"Did you mean '{architecture.head}'"):
        rg.freeze(model, head=architecture.head + "s")


def test_gradients_reach_every_coefficient_and_no_template(architecture):
    model = attached(architecture, resolution=2, sets=2)
    rg.freeze(model, head=architecture.head)
    model(architecture.batch()).square().sum().backward()
    for parameter in rg.coefficients(model):
        assert parameter.grad is not None and parameter.grad.shape == parameter.shape and parameter.grad.any()
    for _, _, source in attach.attached(model).values():
        assert not source.templates.values.requires_grad and source.templates.values.grad is None
        assert source.original.grad is None


def test_one_training_step_changes_nothing_but_coefficients_and_the_head(own):
    model = attached(own)
    head = rg.freeze(model, head=own.head)
    trained = {id(parameter) for parameter in [*rg.coefficients(model), *head.parameters()]}
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(own.batch()).square().sum().backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) == (id(parameter) not in trained), name
    assert unchanged(rg.detach(model), snapshot(own()) | {f"classifier.{k}": v for k, v in head.state_dict().items()})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_templates_are_one_storage_a_group_and_absent_from_state_dicts(architecture, dtype):
    model = architecture()
    bank = architecture.bank(model, groups=2)
    rg.attach(model, bank).to(dtype)
    sources = attach.attached(model)
    for group in bank.groups.values():
        places = {sources[name][2].templates.values.data_ptr() for name in group.names}
        assert len(places) == 1
        assert sources[group.names[0]][2].templates.values.dtype == dtype
    assert len({source.templates.values.data_ptr() for _, _, source in sources.values()}) == len(bank.groups)
    expected = set(architecture().state_dict()) - set(bank.layers)
    assert {name for name in model.state_dict() if ".parametrizations." not in name} == expected
    changed = [tensor for name, tensor in model.state_dict().items() if ".parametrizations." in name]
    assert [tensor.shape for tensor in changed] == [parameter.shape for parameter in rg.coefficients(model)]
    assert model(architecture.batch().to(dtype)).dtype == dtype


def test_a_state_dict_of_an_attached_model_moves_its_coefficients(architecture):
    model, other = attached(architecture), attached(architecture)
    perturb(model)
    other.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(other(architecture.batch()), model(architecture.batch()))


def test_a_deep_copy_works_alone_and_shares_nothing(architecture):
    model = attached(architecture)
    twin = copy.deepcopy(model)
    assert torch.equal(twin(architecture.batch()), model(architecture.batch()))
    perturb(twin)
    close(model(architecture.batch()), architecture()(architecture.batch()))
    assert not torch.allclose(twin(architecture.batch()), model(architecture.batch()), atol=1e-3)
    groups = {id(source.templates) for _, _, source in attach.attached(model).values()}
    assert len({id(source.templates) for _, _, source in attach.attached(twin).values()}) == len(groups)
    assert unchanged(rg.detach(twin), snapshot(architecture()))


@given(st.sampled_from([1, 2, 4, 8]), st.integers(0, 2**16))
def test_assigning_a_mixed_weight_finds_its_coefficients(own, resolution, seed):
    model = attached(own, resolution=resolution)
    expected = torch.randn(1, resolution, 3, generator=torch.Generator().manual_seed(seed))
    layer = model.linears[0]
    with torch.no_grad():
        layer.weight = layer.parametrizations.weight[0](expected)
        torch.testing.assert_close(layer.parametrizations.weight.original, expected, rtol=1e-3, atol=1e-3)


def test_a_model_without_a_bank_has_no_coefficients_and_says_how_to_get_some(own):
    with pytest.raises(AttachError, match=r"rg\.attach"):
        rg.coefficients(own())


REFUSED = {
    "other weights": r"weight is not the weight that the bank was fitted to",
    "a second bank": "already",
    "a resolution that does not divide": "resolution=5 does not divide",
    "resolution 0": "resolution=0",
    "another architecture": "no parameter",
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_go_together_is_refused_and_the_model_unchanged(architecture, vit, own, case):
    model, bank = architecture(), architecture.bank(architecture())
    resolution = {"a resolution that does not divide": 5, "resolution 0": 0}.get(case, 1)
    if case == "other weights":
        model = architecture(seed=1)
    elif case == "a second bank":
        rg.attach(model, bank)
    elif case == "another architecture":
        foreign = vit if architecture is own else own
        bank = foreign.bank(foreign())
    before, layers = snapshot(model), len(attach.attached(model))
    with pytest.raises(AttachError, match=REFUSED[case]):
        rg.attach(model, bank, resolution=resolution)
    assert unchanged(model, before) and len(attach.attached(model)) == layers


def test_a_layer_that_differs_late_in_the_bank_is_refused_and_the_model_unchanged(own):
    model = own()
    bank = own.bank(model)
    with torch.no_grad():
        model.linears[2].weight[0, 0] += 1
    before = snapshot(model)
    with pytest.raises(RecastError, match=r"linears\.2\.weight"):
        rg.attach(model, bank)
    assert unchanged(model, before) and not attach.attached(model)


def test_a_layer_of_another_shape_is_refused_with_both_shapes(own):
    model = own()
    bank = own.bank(model)
    model.linears[1] = nn.Linear(8, 6)
    with pytest.raises(AttachError, match=r"linears\.1\.weight is \(6, 8\).*\(8, 8\)"):
        rg.attach(model, bank)


class Tied(torch.nn.Module):
    """A module in two places, and with `apart` a parameter in two modules."""

    def __init__(self, apart: bool = False):
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(3))
        self.again = self.layers[0]
        self.head = torch.nn.Linear(4, 4)
        if apart:
            self.head.weight = self.layers[1].weight

    def forward(self, x):
        for layer in (*self.layers, self.again, self.head):
            x = x + layer(x)
        return x


def test_a_module_in_two_places_stays_one_through_attach_task_and_generation(tmp_path):
    model, batch = Tied(), torch.randn(2, 4)
    before, bank = model(batch), rg.mimic(model)
    assert bank.ties == {"again.weight": "layers.0.weight", "again.bias": "layers.0.bias"}
    rg.attach(model, bank)
    torch.testing.assert_close(model(batch), before)
    with torch.no_grad():
        rg.coefficients(model)[0].mul_(2)
    rg.save_task(tmp_path / "task.safetensors", model, bank)
    made = rg.generate(bank, tmp_path / "task.safetensors")
    plain = Tied()
    plain.load_state_dict({name: torch.from_numpy(array) for name, array in made.items()}, strict=True)
    torch.testing.assert_close(plain(batch), model(batch))


def test_biases_that_timm_caches_are_left_alone_and_refused():
    model = timm.create_model("levit_128s", img_size=32, num_classes=3).eval()
    assert "attention_biases" not in "".join(rg.mimic(model).layers)
    with pytest.raises(AttachError, match="would not notice a change"):
        rg.attach(model, rg.mimic(model, families=["*.attention_biases*"]))


def test_a_parameter_in_two_modules_is_refused_and_the_model_unchanged():
    model = Tied(apart=True)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(AttachError, match=r"head\.weight and layers\.1\.weight are one tensor"):
        rg.attach(model, rg.mimic(model))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("off", [rg.detach, rg.bake])
def test_taking_the_bank_off_a_copy_leaves_the_original_and_the_order_of_parameters_alone(vit, off):
    model, batch = vit().eval(), vit.batch()
    names = [name for name, _ in model.named_parameters()]
    rg.attach(model, vit.bank(model))
    expected = model(batch)
    other = off(copy.deepcopy(model))
    assert [name for name, _ in other.named_parameters()] == names == list(dict(other.named_parameters()))
    assert torch.equal(model(batch), expected) and len(attach.attached(model)) > 0


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux what is mapped")
def test_models_on_a_packed_bank_share_its_memory_mapped_file(vit, tmp_path):
    model, batch = vit().eval(), vit.batch()
    before = model(batch)
    vit.bank(model).save(tmp_path / "bank.safetensors", packed=True)
    rg.attach(model, rg.load_bank(tmp_path / "bank.safetensors"))
    torch.testing.assert_close(model(batch), before)
    maps = Path("/proc/self/maps").read_text().splitlines()
    ranges = [line.split()[0].split("-") for line in maps if "bank.safetensors" in line]
    for _, _, source in attach.attached(model).values():
        address = source.templates.values.data_ptr()
        assert any(int(start, 16) <= address < int(stop, 16) for start, stop in ranges)


def test_under_autocast_generated_weights_keep_their_dtype_as_plain_ones_do(cnn):
    model, images = cnn(), cnn.batch()
    rg.attach(model, cnn.bank(model))
    with torch.autocast("cpu", torch.bfloat16):
        assert {getattr(module, leaf).dtype for module, leaf, _ in attach.attached(model).values()} == {torch.float32}
        logits = model(images)
        assert torch.equal(logits, rg.bake(model)(images))
