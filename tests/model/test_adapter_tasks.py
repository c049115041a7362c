"""A task file holds an adapter, too: it comes back, folds into plain weights where it can, and goes without a trace."""

import numpy as np
import pytest
import torch
from torch.nn.utils import parametrize

import recast_gen as rg
from recast_gen.bank import taskfile
from recast_gen.errors import AttachError, ExportError, FitError, FoldError, SourceError, TaskError
from recast_gen.model.adapters import apply

from .test_adapter import FOLDING, cases, make, state, train  # noqa: F401  (a fixture)


def adapted(architecture, name=None, seed=1, **options):
    """The bank, and a model with other coefficients than its base and, by name, a trained adapter."""
    model = architecture()
    bank = architecture.bank(model)
    rg.attach(model, bank)
    generator = torch.Generator().manual_seed(seed)
    for parameter in rg.coefficients(model):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    if name:
        rg.add_adapter(model, name, head=architecture.head, **options)
        train(model, seed)
    return bank, model


@cases()
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_task_with_an_adapter_gives_the_same_logits_through_its_file(request, tmp_path, kind, name, dtype):
    architecture = request.getfixturevalue(kind)
    bank, model = adapted(architecture, name)
    rg.save_task(tmp_path / "task.safetensors", model, bank, head=architecture.head, dtype=dtype)
    other = rg.attach(architecture(), bank)
    task = rg.load_task(tmp_path / "task.safetensors", other, bank)
    options = apply.kind(apply.added(model))["options"]
    assert task.about["adapter"] == {"name": name, "options": options, "head": architecture.head}
    exact = {"rtol": 0, "atol": 0} if dtype == "float32" else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(other(architecture.batch()), model(architecture.batch()), **exact)
    rg.save_task(tmp_path / "again.safetensors", other, bank, head=architecture.head, dtype=dtype)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "task.safetensors").read_bytes()


@cases()
def test_switching_among_tasks_with_and_without_adapters_forgets_nothing(request, tmp_path, kind, name):
    architecture = request.getfixturevalue(kind)
    expected = {}
    for number, chosen in enumerate([None, name, "piggyback", name]):
        bank, model = adapted(architecture, chosen, seed=number)
        rg.save_task(tmp_path / f"{number}.safetensors", model, bank, head=architecture.head)
        expected[number] = model(architecture.batch())
    model = rg.attach(architecture(), bank)
    before = state(model).keys()
    lib = rg.TaskLibrary(tmp_path, architecture(), bank)
    for number in (0, 1, 3, 2, 1, 0):
        parts = list(apply.added(model).values())
        rg.load_task(tmp_path / f"{number}.safetensors", model, bank)
        lib.use(str(number))
        assert torch.equal(model(architecture.batch()), expected[number])
        assert torch.equal(lib(architecture.batch()), expected[number])
        if parts and parts[0].name == (name if number in (1, 3) else "piggyback" if number else None):
            assert parts == list(apply.added(model).values())  # the same tensors, filled anew
    assert state(model).keys() == before
    base, plain = state(lib.base()), state(architecture())
    assert list(base) == list(plain) and all(torch.equal(base[key], plain[key]) for key in plain)
    lib.use("1")
    assert torch.equal(lib(architecture.batch()), expected[1])
    torch.testing.assert_close(lib(architecture.batch(), tasks="0"), expected[0], rtol=1e-4, atol=1e-5)
    assert torch.equal(lib(architecture.batch()), expected[1])
    with pytest.raises(TaskError, match="1 have adapters, which a mixed batch cannot have"):
        lib(architecture.batch(), tasks=["0", "1", "0", "1"])


@cases(FOLDING)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_generated_weights_have_the_adapter_folded_in(request, tmp_path, kind, name, dtype):
    architecture = request.getfixturevalue(kind)
    model = architecture().to(dtype)
    bank = architecture.bank(model)
    rg.add_adapter(rg.attach(model, bank), name, head=architecture.head)
    train(model)
    rg.save_task(tmp_path / "task.safetensors", model, bank, head=architecture.head)
    made = rg.generate(bank, tmp_path / "task.safetensors")
    baked = rg.bake(model).state_dict()
    assert made.keys() == baked.keys()
    for key, tensor in baked.items():
        allowed = 1e-6 if dtype == torch.float32 else 2e-2
        found = torch.from_numpy(made[key].astype(np.float32))
        torch.testing.assert_close(found, tensor.float(), rtol=allowed, atol=allowed, msg=key)
    plain = architecture(seed=5).to(dtype)
    plain.load_state_dict({key: torch.from_numpy(array.astype(np.float32)) for key, array in made.items()})
    if dtype == torch.float32:
        torch.testing.assert_close(plain(architecture.batch()), model(architecture.batch()), rtol=1e-4, atol=1e-5)


def test_a_codyra_without_an_update_that_counts_is_a_smaller_file_of_the_same_weights(vit, tmp_path):
    bank, model = adapted(vit, "codyra", rank=2)
    rg.save_task(tmp_path / "whole.safetensors", model, bank, head="head")
    for part in apply.added(model).values():
        part.importance.data.fill_(part.threshold)
    rg.save_task(tmp_path / "task.safetensors", model, bank, head="head")
    rg.load_task(tmp_path / "task.safetensors", other := rg.attach(vit(), bank), bank)
    assert torch.equal(other(vit.batch()), model(vit.batch()))
    weights, plain = rg.generate(bank, tmp_path / "task.safetensors"), rg.bake(rg.remove_adapter(model)).state_dict()
    assert all(np.allclose(weights[name], tensor, atol=1e-6) for name, tensor in plain.items())
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("task", "whole")]
    assert sizes[0] < sizes[1] / 2


@pytest.mark.parametrize("head", ["head", ""])
def test_an_adapter_may_leave_the_head_alone_or_not_whatever_of_it_the_file_holds(vit, tmp_path, head):
    bank, model = adapted(vit)
    rg.add_adapter(model, "piggyback", head=head)
    train(model)
    rg.save_task(tmp_path / "task.safetensors", model, bank, head="")
    other = rg.attach(vit(), bank)
    rg.load_task(tmp_path / "task.safetensors", other, bank)
    assert torch.equal(other(vit.batch()), model(vit.batch()))
    rg.save_task(tmp_path / "own.safetensors", adapted(vit, seed=2)[1], bank)
    rg.load_task(tmp_path / "own.safetensors", plain := rg.attach(vit(), bank), bank)
    lib = rg.TaskLibrary(tmp_path, vit(), bank)
    for name, like in [("own", plain), ("task", model)] * 2:
        rg.load_task(tmp_path / f"{name}.safetensors", other, bank)
        lib.use(name)
        assert torch.equal(other(vit.batch()), like(vit.batch())) and torch.equal(lib(vit.batch()), like(vit.batch()))
    weights = rg.generate(bank, tmp_path / "task.safetensors")
    assert all(np.allclose(weights[key], tensor, atol=1e-6) for key, tensor in rg.bake(model).state_dict().items())


def test_an_adapter_of_a_head_that_the_file_holds_is_refused(vit, tmp_path):
    bank, model = adapted(vit)
    rg.add_adapter(model, "piggyback", head="")
    with pytest.raises(TaskError, match=r"acts on head\.weight of the head 'head'.*head='head'"):
        rg.save_task(tmp_path / "task.safetensors", model, bank)


def test_a_tasks_adapter_is_never_left_out_of_what_is_made_from_it(vit, tmp_path):
    bank, model = adapted(vit, "melo")
    rg.save_task(tmp_path / "task.safetensors", model, bank)
    with pytest.raises(TaskError, match="'melo': only coefficients have a between"):
        rg.interpolate(bank, None, tmp_path / "task.safetensors")
    with pytest.raises(FitError, match="'melo'.*give what `recast generate` made"):
        rg.extend(bank, 1, "tasks", tasks=[tmp_path / "task.safetensors"])


class Twice(torch.nn.Module):
    def forward(self, weight):
        return 2 * weight


@pytest.mark.parametrize("off", [rg.bake, rg.detach])
def test_what_someone_else_put_on_a_layer_is_refused_and_the_adapter_stays(vit, off):
    model = vit()
    rg.attach(model, rg.mimic(model, families=["*.qkv"]))
    rg.add_adapter(model, "piggyback")
    train(model)
    parametrize.register_parametrization(model.blocks[0].mlp.fc1, "weight", Twice())
    before = model(vit.batch())
    with pytest.raises(AttachError, match="parametrizations besides the bank's"):
        off(model)
    assert torch.equal(model(vit.batch()), before)


@pytest.mark.parametrize(("kind", "name"), [("cnn", "clr"), ("vit", "adaptformer")])
def test_an_adapter_that_adds_layers_is_refused_where_plain_weights_are_made(request, tmp_path, kind, name):
    architecture = request.getfixturevalue(kind)
    bank, model = adapted(architecture, name)
    rg.save_task(tmp_path / "task.safetensors", model, bank, head=architecture.head)
    with pytest.raises(FoldError, match=rf"'{name}' adds layers.*rg\.load_task"):
        rg.generate(bank, tmp_path / "task.safetensors")
    with pytest.raises(ExportError, match=name):
        rg.to_peft(bank, tmp_path / "task.safetensors", tmp_path / "peft")
    with pytest.raises(SourceError, match=r"A bank or adapter is on this model: call rg.detach\(model\) first.$"):
        rg.families(model)
    plain = architecture()
    rg.add_adapter(plain, name, head=architecture.head)
    with pytest.raises(SourceError, match=r"adds layers is on this model: call rg.remove_adapter\(model\) first.$"):
        rg.mimic(plain)


def test_a_mask_costs_one_bit_a_weight_on_disk(cnn, tmp_path):
    bank, model = adapted(cnn)
    plain = rg.save_task(tmp_path / "plain.safetensors", model, bank, head="fc")
    scores = rg.add_adapter(model, "piggyback", head="fc")
    masked = rg.save_task(tmp_path / "masked.safetensors", model, bank, head="fc")
    bits = sum(parameter.numel() for parameter in scores.values())
    assert 0 <= masked - plain - bits / 8 <= 140 * (1 + len(scores))  # names, places and rounding up
    stored = sum(row[-1] for row in taskfile.sizes(tmp_path / "masked.safetensors") if row[0].startswith("adapter:"))
    assert bits / 8 <= stored < bits / 8 + len(scores)


def test_a_task_file_is_as_it_was_where_there_is_no_adapter(vit, tmp_path):
    bank, model = adapted(vit)
    before = rg.save_task(tmp_path / "a.safetensors", model, bank)
    rg.add_adapter(model, "melo")
    rg.remove_adapter(model)
    assert rg.save_task(tmp_path / "b.safetensors", model, bank) == before
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def change(part, key, value):
    part[key] = value


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda task: change(task.about["adapter"], "name", "mello"), "Did you mean 'melo'"),
        (lambda task: task.about["adapter"].update(name="clr", options={}), "nothing to act on"),
        (lambda task: change(task.about["adapter"], "name", "piggyback"), "has no option rank"),
        (lambda task: change(task.about["adapter"], "options", {"rank": 3}), r"does not fit.*qkv\.weight\.down"),
        (lambda task: change(task.about["adapter"], "options", {"rank": "many"}), "rank='many'"),
        (lambda task: task.adapter.pop("blocks.1.attn.qkv.weight"), r"does not fit.*blocks\.1\.attn\.qkv\.weight"),
        (lambda task: change(task.adapter, "blocks.9.attn.qkv.weight", {"up": np.zeros(2)}), r"fit.*blocks\.9"),
        (lambda task: change(task.about, "adapter", "melo"), "no complete task file"),
        (lambda task: task.about.pop("adapter"), "no complete task file"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_and_the_model_unchanged(vit, tmp_path, damage, message):
    bank, model = adapted(vit, "melo")
    path = tmp_path / "task.safetensors"
    rg.save_task(path, model, bank)
    task = taskfile.read(path, bank)
    damage(task)
    taskfile.write(path, task, bank)
    rg.remove_adapter(model)
    rg.add_adapter(model, "adaptformer")
    train(model)
    before = state(model)
    with pytest.raises(TaskError, match=message):
        rg.load_task(path, model, bank)
    after = state(model)
    assert list(after) == list(before) and all(torch.equal(after[key], before[key]) for key in before)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda part: change(part, "up", part["up"][:, :3]), r"melo does not fit blocks\.0\.attn\.qkv\.weight"),
        (lambda part: change(part, "up", part["up"][[0, 0, 0]]), "melo does not fit"),
        (lambda part: change(part, "mask", part["up"]), "melo does not fit"),
        (lambda part: part.pop("up"), "melo does not fit"),
    ],
)
def test_generation_refuses_an_adapter_that_does_not_fit(vit, tmp_path, damage, message):
    bank, model = adapted(vit, "melo")
    rg.save_task(tmp_path / "task.safetensors", model, bank)
    task = taskfile.read(tmp_path / "task.safetensors", bank)
    damage(task.adapter["blocks.0.attn.qkv.weight"])
    with pytest.raises(TaskError, match=message):
        rg.generate(bank, task)
    task.adapter = {"blocks.9.attn.qkv.weight": {}}
    with pytest.raises(TaskError, match=r"blocks\.9\.attn\.qkv\.weight, which the backbone lacks"):
        rg.generate(bank, task)


def test_a_mask_of_another_size_is_refused(cnn, tmp_path):
    bank, model = adapted(cnn, "piggyback")
    rg.save_task(tmp_path / "task.safetensors", model, bank, head="fc")
    task = taskfile.read(tmp_path / "task.safetensors", bank)
    task.adapter["conv1.weight"]["mask"] = task.adapter["conv1.weight"]["mask"][:-1]
    with pytest.raises(TaskError, match=r"piggyback does not fit conv1\.weight"):
        rg.generate(bank, task)
    with pytest.raises(AttachError, match="another bank"):
        rg.save_task(tmp_path / "x.safetensors", model, cnn.bank(cnn(), groups=2))
