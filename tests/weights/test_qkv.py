"""A fused qkv as three families, from the fit to the task and out again."""

import copy

import ml_dtypes
import numpy as np
import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import recast_gen as rg
from recast_gen.errors import AttachError, ExportError, FamilyError
from recast_gen.weights import networks, qkv

from ..model.test_attach import close, perturb, snapshot, unchanged

QKV = [f"blocks.*.attn.qkv#{part}.weight" for part in "kqv"]
SOME = (["*.qkv"], ["*.qkv", "*.mlp.fc1"], ["*.qkv#q", "*.qkv#v"], ["*.qkv#k"])
DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16, np.float64)


def split(architecture, source, **options) -> rg.TemplateBank:
    return rg.mimic(source, **{"families": architecture.families, "split_qkv": True} | options)


def loaded(architecture, state: dict[str, np.ndarray]) -> nn.Module:
    model = architecture(seed=5)
    networks.fill(model, state)
    return model


@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from(DTYPES), st.permutations(range(3)))
def test_parts_in_any_order_join_to_the_same_bits(rows, columns, dtype, order):
    tensor = np.random.default_rng(rows).standard_normal((3 * rows, columns)).astype(dtype)
    names = list(qkv.parts("x.qkv.weight", tensor.shape))
    pairs = [(names[place], qkv.rows(tensor, names[place])) for place in order]
    ((name, joined),) = qkv.joined(pairs)
    assert name == "x.qkv.weight" and joined.dtype == dtype and joined.tobytes() == tensor.tobytes()
    assert [name for name, _ in qkv.joined(pairs[:2])] == [name for name, _ in pairs[:2]]


def test_only_what_is_called_qkv_and_has_three_equal_parts_is_split(vit):
    tensors = {
        f"{block}.{name}": np.ones(shape, np.float32)
        for block in range(2)
        for name, shape in {"qkv.weight": (6, 4), "attn.qkv.weight": (8, 4), "notqkv.weight": (6, 4)}.items()
    }
    found = rg.families(tensors | {"0.qkv.bias": np.ones(6, np.float32)}, split_qkv=True)
    assert {*found} == {"*.qkv.bias", "*.attn.qkv.weight", "*.notqkv.weight"} | {
        f"*.qkv#{part}.weight" for part in "qkv"
    }
    assert found["*.qkv#q"].shape == (2, 4)
    fused, three = rg.families(vit()), rg.families(vit(), split_qkv=True)
    assert sum(f.parameters for f in fused.values()) == sum(f.parameters for f in three.values())


@settings(max_examples=10)
@given(
    st.sampled_from(SOME), st.sampled_from(["svd", "identity"]), st.sampled_from([1, 2, [[0, 3], [1, 2]]]),
    st.sampled_from(["index", "shape"]), st.sampled_from([1, 2, "channel"]), st.integers(1, 2),
)  # fmt: skip
def test_an_exact_bank_of_parts_leaves_the_forward_and_comes_off_bit_for_bit(
    vit, families, gauge, groups, by, resolution, sets
):
    model = vit()
    families = families if by == "index" else None
    groups = groups if by == "index" else 1
    before, names, expected = snapshot(model), [name for name, _ in model.named_parameters()], model(vit.batch())
    bank = split(vit, model, families=families, gauge=gauge, groups=groups, by=by, sets=sets)
    rg.attach(model, bank, resolution=resolution)
    close(model(vit.batch()), expected)
    close(copy.deepcopy(model)(vit.batch()), expected)
    assert len(rg.coefficients(model)) == len(bank.layers)
    perturb(model)
    live = model(vit.batch())
    assert not torch.allclose(live, expected)
    close(rg.bake(copy.deepcopy(model))(vit.batch()), live)
    rg.detach(model)
    assert unchanged(model, before) and [name for name, _ in model.named_parameters()] == names


@pytest.mark.parametrize("families", SOME)
@pytest.mark.parametrize("packed", [True, False])
def test_a_task_of_parts_is_the_live_model_wherever_it_is_generated(vit, tmp_path, families, packed):
    model, images = vit(), vit.batch()
    split(vit, model, families=families, groups=2).save(tmp_path / "bank.zarr", packed)
    bank = rg.load_bank(tmp_path / "bank.zarr")
    before = snapshot(model)
    rg.attach(model, bank, resolution=2)
    rg.freeze(model)
    perturb(model)
    model.head.weight.data += 1
    live = model(images)
    rg.save_task(tmp_path / "one.safetensors", model, bank)
    made = rg.generate(tmp_path / "bank.zarr", tmp_path / "one.safetensors")
    assert made.keys() == before.keys()
    close(loaded(vit, made)(images), live)
    assert {*bank.shapes.items()} == {(name, (array.shape, array.dtype.name)) for name, array in made.items()}
    other = rg.attach(vit(), bank)
    rg.load_task(tmp_path / "one.safetensors", other, bank)
    assert torch.equal(other(images), live)
    lib = rg.TaskLibrary(tmp_path, vit(), bank)
    lib.use("one")
    assert torch.equal(lib(images), live)
    close(lib(images, tasks=["one"] * len(images)), live)
    assert unchanged(lib.base(), snapshot(vit()))


def test_a_part_that_the_bank_has_not_may_not_drift_from_it(vit, tmp_path):
    model = vit()
    bank = split(vit, model, families=["*.qkv#q"])
    rg.attach(model, bank)
    model.blocks[1].attn.qkv.parametrizations.weight[0].k.data += 1
    with pytest.raises(rg.errors.TaskError, match="blocks.1.attn.qkv#k.weight"):
        rg.save_task(tmp_path / "one.safetensors", model, bank)
    assert unchanged(rg.detach(model), snapshot(vit()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_half_precision(vit, dtype):
    model = vit().to(dtype)
    made = rg.generate(split(vit, model))
    for name, tensor in model.state_dict().items():
        assert torch.allclose(loaded(vit, made).state_dict()[name].to(dtype).float(), tensor.float(), atol=1e-2)
        assert made[name].dtype.name == str(dtype)[6:]


@pytest.mark.parametrize(
    "options",
    [
        {"solver": "direct", "loss": "mse", "coordinates": True, "steps": 20},
        {"templates": 2},
        {"group_by": "similarity", "groups": 2},
        {"layout": "row", "budget": 0.5},
        {"layout": "auto", "budget": 0.5, "whiten": torch.randn(4, 3, 16, 16)},
    ],
)
def test_every_fit_takes_parts_and_certifies_each(vit, tmp_path, options):
    bank = split(vit, vit(), families=["*.qkv"], **options)
    assert list(bank.families) == QKV and {family for family, _ in bank.certificate} == set(QKV)
    bank.save(tmp_path / "bank.zarr")
    made = rg.generate(tmp_path / "bank.zarr")
    original = vit().state_dict()["blocks.2.attn.qkv.weight"].numpy()
    error = np.linalg.norm(made["blocks.2.attn.qkv.weight"] - original) ** 2
    three = (bank.layers[f"blocks.2.attn.qkv#{part}.weight"] for part in "qkv")
    errors = [group.certificate["layer_error"][group.names.index(n)] for group, n in zip(three, _names(2))]
    norms = [np.linalg.norm(qkv.rows(original, name)) for name in _names(2)]
    assert np.sqrt(error) == pytest.approx(np.linalg.norm(np.multiply(errors, norms)), rel=1e-3, abs=1e-6)


def _names(block: int) -> list[str]:
    return [f"blocks.{block}.attn.qkv#{part}.weight" for part in "qkv"]


def test_a_checkpoint_is_read_by_its_parts_a_group_at_a_time(vit, tmp_path):
    save_file(vit().state_dict(), tmp_path / "model.safetensors")
    one, other = (split(vit, source) for source in (vit(), tmp_path / "model.safetensors"))
    made = rg.generate(other)
    assert all(np.array_equal(array, made[name]) for name, array in rg.generate(one).items())
    assert other.save(tmp_path / "bank.zarr") == rg.load_bank(tmp_path / "bank.zarr").hash


def test_whole_thirds_fit_better_than_a_fused_qkv_of_as_many_templates(vit):
    fused, three = (rg.mimic(vit(), families=["*.qkv"], templates=2, split_qkv=apart) for apart in (False, True))
    original = vit().state_dict()
    errors = [
        sum(np.square(rg.generate(bank)[name] - original[name].numpy()).sum() for name in bank.made)
        for bank in (fused, three)
    ]
    assert errors[1] < errors[0]


def test_the_vae_samples_parts_and_a_bank_of_them_is_extended(vit, tmp_path):
    model = vit()
    bank = rg.mimic_vae(model, families=["*.qkv"], split_qkv=True, epochs=1)
    (drawn,) = rg.sample(bank, n=1)
    assert rg.generate(bank, drawn)["blocks.0.attn.qkv.weight"].shape == (48, 16)
    bank = split(vit, model, families=["*.qkv"], groups=2)
    other = rg.generate(rg.mimic(vit(seed=1), families=["*.qkv"]))
    changed = {name: weight + 0.1 * other[name] for name, weight in rg.generate(bank).items()}
    for options in ({"source": "random"}, {"source": "layers"}, {"source": "tasks", "tasks": [changed]}):
        longer = rg.extend(bank, 2, **options)
        close(rg.attach(vit(), longer)(vit.batch()), vit()(vit.batch()))


@pytest.mark.parametrize("name", ["melo", "piggyback"])
@pytest.mark.parametrize("families", SOME[1:3])
def test_an_adapter_on_the_whole_goes_with_a_bank_of_the_parts(vit, tmp_path, name, families):
    model, images = vit(), vit.batch()
    before, bank = snapshot(model), split(vit, model, families=families)
    rg.attach(model, bank)
    expected = model(images)
    tensors = rg.add_adapter(model, name)
    assert torch.equal(model(images), expected) and "blocks.0.attn.qkv.weight" in {key[:24] for key in tensors}
    rg.freeze(model)
    perturb(model)
    for tensor in tensors.values():
        tensor.data += 0.02 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(2))
    live = model(images)
    rg.save_task(tmp_path / "one.safetensors", model, bank)
    close(loaded(vit, rg.generate(bank, tmp_path / "one.safetensors"))(images), live)
    other = rg.attach(vit(), bank)
    rg.load_task(tmp_path / "one.safetensors", other, bank)
    assert torch.equal(other(images), live)
    close(rg.bake(other)(images), live)
    assert unchanged(rg.detach(model), before | {k: v for k, v in snapshot(model).items() if "head" in k})


@pytest.mark.parametrize("families", SOME[1:3])
def test_a_task_of_parts_is_lora_of_the_whole(vit, tmp_path, families):
    model = vit()
    bank = split(vit, model, families=families)
    rg.attach(model, bank)
    perturb(model)
    rg.save_task(tmp_path / "one.safetensors", model, bank)
    live = model(vit.batch())
    rg.to_peft(bank, tmp_path / "one.safetensors", tmp_path / "lora", rank=16)
    close(peft.PeftModel.from_pretrained(vit(), tmp_path / "lora")(vit.batch()), live)
    rg.to_folder(bank, [tmp_path / "one.safetensors"], tmp_path / "folder")
    assert torch.equal(rg.TaskLibrary(tmp_path / "folder", vit())(vit.batch(), tasks="one"), live)
    with pytest.raises(ExportError, match="bake"):
        rg.to_onnx(model, tmp_path / "one.onnx", vit.images)


def test_rates_and_heads_are_those_of_the_parts(vit):
    model = vit()
    rg.attach(model, split(vit, model, families=["*.qkv"]), resolution={"*.qkv": "head"})
    assert {tuple(c.shape[:2]) for c in rg.coefficients(model)} == {(1, model.blocks[0].attn.num_heads)}
    assert len(rg.rates(model)) == 3 * len(model.blocks)


@pytest.mark.parametrize("families", SOME)
def test_a_weight_that_is_assigned_goes_to_its_parts(vit, families):
    model, bank = vit(), split(vit, vit(), families=families)
    weights = [block.attn.qkv.weight.clone() for block in model.blocks]
    rg.attach(model, bank)
    perturb(model)
    for block, weight in zip(model.blocks, weights):
        block.attn.qkv.weight = weight
        close(block.attn.qkv.weight, weight)


def test_what_does_not_go_together_is_refused_by_name(vit):
    with pytest.raises(FamilyError, match="qkv#q"):
        rg.mimic(vit(), families=["*.qkv#q"])
    bank, other = split(vit, vit()), vit(seed=2)
    before = snapshot(other)
    with pytest.raises(AttachError, match="blocks.0.attn.qkv#k.weight is not the weight"):
        rg.attach(other, bank)
    other.blocks[0].attn.qkv = nn.Linear(16, 32)
    with pytest.raises(AttachError, match=r"blocks.0.attn.qkv#k.weight is .* in the model"):
        rg.attach(other, bank)
    other.blocks[0].attn.qkv = nn.Identity()
    with pytest.raises(AttachError, match="blocks.0.attn.qkv.weight"):
        rg.attach(other, bank)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
    model = rg.attach(vit(), bank)
    with pytest.raises(rg.errors.SourceError, match="detach"):
        rg.mimic(model)
