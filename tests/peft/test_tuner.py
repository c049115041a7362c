"""RECAST as a tuner of PEFT: the same network as `rg.attach` makes, through PEFT's own verbs."""

import copy

import pytest
import timm
import torch
from torch import nn

import recast_gen as rg
from recast_gen.errors import AttachError, TaskError

from ..conftest import PICO_VIT

peft = pytest.importorskip("peft")
from recast_gen.peft import RecastConfig, add_task, write_task  # noqa: E402


def stir(model, seed=0):
    """Moves all that is trainable; returns how many parameters that is."""
    generator, trained = torch.Generator().manual_seed(seed), [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter)
    return sum(parameter.numel() for parameter in trained)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def made(architecture):
    """A PEFT model whose adapter was moved, its backbone, bank and the name of its head."""
    model = architecture(num_classes=5)
    norms = {"own": "none"}.get(architecture.name, "affine")
    bank = architecture.bank(model, split_qkv=architecture.name == "vit", norms=norms)
    if architecture.name == "own":
        bank = rg.extend(bank, source="singular", rank=2)
    config = RecastConfig(bank=bank, modules_to_save=[architecture.head])
    return peft.get_peft_model(copy.deepcopy(model), config).eval(), model, bank, architecture


def test_it_starts_at_the_backbone_and_trains_what_an_attached_model_trains(architecture):
    model = architecture()
    bank, images = architecture.bank(model), architecture.batch()
    tuned = peft.get_peft_model(copy.deepcopy(model), RecastConfig(bank=bank, resolution=2))
    attached = rg.attach(copy.deepcopy(model), bank, resolution=2)
    assert torch.equal(tuned(images), attached(images))
    assert tuned.get_nb_trainable_parameters()[0] == sum(c.numel() for c in rg.coefficients(attached))
    loss = tuned(images).square().mean()
    loss.backward()
    attached(images).square().mean().backward()
    gradients = [p.grad for p in tuned.parameters() if p.requires_grad]
    assert all(torch.allclose(one, other.grad) for one, other in zip(gradients, rg.coefficients(attached)))


def test_what_peft_saves_it_loads_exactly(made, tmp_path):
    tuned, model, bank, architecture = made
    stir(tuned)
    images = architecture.batch()
    logits = tuned(images)
    bank.save(tmp_path / "bank.zarr")
    tuned.peft_config["default"].bank = str(tmp_path / "bank.zarr")
    tuned.save_pretrained(tmp_path / "adapter")
    for options in ({}, {"low_cpu_mem_usage": True}, {"is_trainable": True}):
        again = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "adapter", **options).eval()
        assert torch.equal(again(images), logits)
    other = architecture.bank(model, gauge="identity")
    with pytest.raises(AttachError, match="belongs to bank"):
        RecastConfig(bank=other, bank_hash=bank.hash)


def test_a_resolution_by_globs_is_loaded_in_its_order_and_a_bank_without_a_path_is_asked_for(vit, tmp_path):
    model, images = vit(), vit.batch()
    tuned = peft.get_peft_model(
        copy.deepcopy(model), RecastConfig(bank=vit.bank(model), resolution={"*qkv*": "head", "*": 2})
    )
    stir(tuned)
    tuned.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(copy.deepcopy(model), tmp_path)  # a bank that this process knows
    assert torch.equal(again(images), tuned(images))
    config = tmp_path / "adapter_config.json"
    config.write_text(config.read_text().replace(vit.bank(model).hash, "0" * 32))
    with pytest.raises(AttachError, match="bank 0+, which has no path"):
        peft.PeftModel.from_pretrained(model, tmp_path)


def test_merging_and_unloading_are_exact(made):
    tuned, model, _, architecture = made
    stir(tuned)
    images, before = architecture.batch(), {name: t.clone() for name, t in tuned.state_dict().items()}
    logits = tuned(images)
    tuned.merge_adapter(safe_merge=True)
    assert torch.allclose(tuned(images), logits, atol=1e-6)
    tuned.unmerge_adapter()
    assert same(tuned.state_dict(), before) and torch.equal(tuned(images), logits)
    with tuned.disable_adapter():
        assert torch.equal(tuned(images), model(images))
    merged = copy.deepcopy(tuned).merge_and_unload()
    assert torch.allclose(merged(images), logits, atol=1e-6) and merged.state_dict().keys() == model.state_dict().keys()
    plain = tuned.unload().state_dict()
    kept = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(architecture.head)}
    assert same({name: plain[name] for name in kept}, kept)


def test_adapters_are_added_switched_summed_and_deleted(vit):
    model = vit()
    bank, images = vit.bank(model), vit.batch()
    tuned = peft.get_peft_model(copy.deepcopy(model), RecastConfig(bank=bank), adapter_name="one").eval()
    stir(tuned)
    one = tuned(images)
    tuned.add_adapter("two", RecastConfig(bank=bank, resolution=2))
    tuned.set_adapter("two")
    assert torch.allclose(tuned(images), model(images), atol=1e-5)
    assert stir(tuned, 1) == 2 * sum(group.coefficients.size for group in bank.groups.values())
    two = tuned(images)
    tuned.set_adapter("one")
    assert torch.equal(tuned(images), one)
    tuned.base_model.set_adapter(["one", "two"])
    both = tuned(images)
    weights = [rg.generate(bank, coefficients) for coefficients in (numbers(tuned, "one"), numbers(tuned, "two"))]
    plain = copy.deepcopy(model)
    state = plain.state_dict()
    for name in bank.layers:
        state[name] += sum(torch.from_numpy(each[name]) - state[name] for each in weights)
    assert torch.allclose(plain(images), both, atol=1e-4)
    tuned.merge_adapter()
    assert torch.allclose(tuned(images), both, atol=1e-5)
    tuned.unmerge_adapter()
    tuned.set_adapter("two")
    tuned.delete_adapter("one")
    assert torch.equal(tuned(images), two)


def numbers(model, adapter):
    inside = "base_model.model."
    return {
        name.removeprefix(inside).replace(f"recast_coefficients.{adapter}.", ""): tensor.detach().numpy()
        for name, tensor in model.named_parameters() if f"recast_coefficients.{adapter}." in name
    }  # fmt: skip


def test_task_files_become_adapters_and_adapters_task_files(made, tmp_path):
    tuned, model, bank, architecture = made
    stir(tuned)
    images = architecture.batch()
    logits, before = tuned(images), {name: t.clone() for name, t in tuned.state_dict().items()}
    tuned.merge_adapter()
    write_task(tmp_path / "a.safetensors", tuned, classes=list("abcde"))
    tuned.unmerge_adapter()
    assert same(tuned.state_dict(), before)
    attached = rg.attach(copy.deepcopy(model), bank)
    assert rg.load_task(tmp_path / "a.safetensors", attached, bank).classes == list("abcde")
    assert torch.equal(attached(images), logits)
    again = add_task(tmp_path / "a.safetensors", copy.deepcopy(model), bank, "mine").eval()
    assert torch.equal(again(images), logits)
    fewer = architecture(seed=0, num_classes=2)
    fewer.load_state_dict({n: t for n, t in model.state_dict().items() if not n.startswith(architecture.head)}, False)
    rg.attach(fewer, bank, resolution=2 if architecture.name != "cnn" else 1)
    rg.freeze(fewer, head=architecture.head)
    stir(fewer, 2)
    rg.save_task(tmp_path / "b.safetensors", fewer, bank, head=architecture.head)
    add_task(tmp_path / "b.safetensors", again, bank, "two").eval()
    assert torch.equal(again(images), fewer(images)) and again(images).shape[1] == 2
    again.set_adapter("mine")
    assert torch.equal(again(images), logits)
    write_task(tmp_path / "c.safetensors", again, "two")
    assert (tmp_path / "c.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_layers_whose_weights_others_read_or_that_hold_them_transposed(tmp_path):
    transformers = pytest.importorskip("transformers")
    beit = timm.create_model("beit_base_patch16_224", **PICO_VIT, num_classes=3).eval()  # F.linear(x, self.qkv.weight)
    sizes = {
        "n_embd": 16,
        "n_layer": 3,
        "n_head": 2,
        "vocab_size": 32,
        "n_positions": 16,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    gpt = transformers.GPT2Model(transformers.GPT2Config(**sizes)).eval()
    grouped = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1, groups=2) for _ in range(3)))
    ids = torch.arange(8)[None]
    for model, globs, given in (
        (beit, ["blocks.*.attn.qkv"], (torch.randn(2, 3, 16, 16),)),
        (gpt, ["h.*.mlp.c_fc", "h.*.attn.c_proj"], (ids,)),
        (grouped, ["*.weight"], (torch.randn(2, 4, 5, 5),)),
    ):
        stir(model)
        bank = rg.mimic(model, families=globs)
        tuned = peft.get_peft_model(copy.deepcopy(model), RecastConfig(bank=bank, resolution=2))
        start = first(tuned(*given))
        stir(tuned)
        write_task(tmp_path / "t.safetensors", tuned)
        attached = rg.attach(copy.deepcopy(model), bank)
        rg.load_task(tmp_path / "t.safetensors", attached, bank)
        assert torch.allclose(first(attached(*given)), first(tuned(*given)), atol=1e-5)
        assert not torch.allclose(first(tuned(*given)), start, atol=1e-3)
        assert torch.allclose(first(tuned.merge_and_unload()(*given)), first(attached(*given)), atol=1e-5)


def first(output):
    return output if isinstance(output, torch.Tensor) else output[0]


def test_half_precision_trains_in_float32(vit):
    model = vit().to(torch.bfloat16)
    tuned = peft.get_peft_model(model, RecastConfig(bank=vit.bank(model)))
    assert {p.dtype for p in tuned.parameters() if p.requires_grad} == {torch.float32}
    tuned(vit.batch().bfloat16()).sum().backward()
    assert all(p.grad is not None for p in tuned.parameters() if p.requires_grad)


def test_what_cannot_be_is_refused_and_the_model_stays(vit, tmp_path):
    model = vit()
    bank, swin = (
        vit.bank(model),
        timm.create_model(
            "swin_tiny_patch4_window7_224", img_size=32, window_size=4, embed_dim=8, depths=(2, 2), num_heads=(1, 2)
        ),
    )
    tables = rg.mimic(swin, families=["*relative_position_bias_table"])
    cases = [
        (model, RecastConfig(), "needs a bank"),
        (vit(seed=1), RecastConfig(bank=bank), "not the weight that the bank was fitted to"),
        (model, RecastConfig(bank=bank, resolution=7), "does not divide"),
        (rg.attach(vit(), bank), RecastConfig(bank=bank), "rg.detach"),
        (swin, RecastConfig(bank=tables), "hold layers besides"),
    ]
    for wrong, config, message in cases:
        names = [name for name, _ in wrong.named_modules()]
        with pytest.raises(AttachError, match=message):
            peft.get_peft_model(wrong, config)
        assert [name for name, _ in wrong.named_modules()] == names
    tuned = peft.get_peft_model(vit(), RecastConfig(bank=bank, modules_to_save=["head", "norm"]))
    with pytest.raises(TaskError, match="one head"):
        write_task(tmp_path / "t.safetensors", tuned)
    with pytest.raises(TaskError, match="no RECAST adapter 'other'"):
        write_task(tmp_path / "t.safetensors", tuned, "other")
    rg.add_adapter(adapted := rg.attach(vit(), bank), "melo")
    rg.save_task(tmp_path / "m.safetensors", adapted, bank)
    with pytest.raises(TaskError, match="an adapter of its own"):
        add_task(tmp_path / "m.safetensors", vit(), bank)
    assert not (tmp_path / "t.safetensors").exists()
