"""What is checked when a task is saved is checked when it is loaded; wrapped models are looked through."""

import io

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import recast_gen as rg
from recast_gen.errors import AttachError, SourceError, TaskError

from .test_switching import adapt


def test_a_model_whose_other_weights_drifted_is_refused_at_every_door_and_stays_as_it_is(cnn, tmp_path):
    bank, path = cnn.bank(cnn()), tmp_path / "task.safetensors"
    rg.save_task(path, adapt(cnn, bank), bank)
    model = rg.attach(cnn(), bank).train()
    with torch.no_grad():
        model(3 * cnn.batch() + 2)
    expected, lib = model.eval()(cnn.batch()), rg.TaskLibrary(tmp_path, model, bank)
    doors = (
        lambda: rg.load_task(path, rg.attach(rg.detach(model), bank), bank),
        lambda: lib.use("task"),
        lambda: lib(cnn.batch(), tasks="task"),
    )
    for door in reversed(doors):
        with pytest.raises(TaskError, match=r"bn1\.running_mean.* of the model differ from the bank's"):
            door()
    torch.testing.assert_close(model(cnn.batch()), expected)


def test_a_model_in_another_dtype_takes_tasks_and_says_why_it_gives_none(vit, tmp_path):
    bank, path = vit.bank(vit()), tmp_path / "task.safetensors"
    rg.save_task(path, adapt(vit, bank), bank)
    rg.load_task(path, model := rg.attach(vit(), bank).bfloat16(), bank)
    assert model(vit.batch().bfloat16()).isfinite().all()
    with pytest.raises(TaskError, match=r"another dtype than the bank's \(torch\.bfloat16\)"):
        rg.save_task(tmp_path / "moved.safetensors", model, bank)


def test_a_state_dict_goes_to_its_own_bank_alone(vit):
    one, other = (rg.attach(vit(), vit.bank(vit(), gauge=gauge)) for gauge in ("svd", "identity"))
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    for state in (one.state_dict(), torch.load(file, weights_only=True)):
        rg.attach(vit(), vit.bank(vit())).load_state_dict(state)
        with pytest.raises(AttachError, match="coefficients of bank"):
            other.load_state_dict(state)
    one.load_state_dict(dict(one.state_dict()))  # as older versions wrote it


@pytest.mark.parametrize("wrap", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel, AveragedModel])
def test_a_wrapped_model_is_looked_through(vit, tmp_path, wrap):
    model = vit()
    bank, path = vit.bank(wrap(model)), tmp_path / "task.safetensors"
    assert bank.hash == vit.bank(model).hash
    wrapped = wrap(model)
    assert rg.attach(wrapped, bank) is wrapped and len(rg.coefficients(wrapped)) == len(bank.layers)
    inner = next(module for module in wrapped.modules() if type(module) is type(vit()))
    assert rg.freeze(wrapped) is inner.head
    for parameter in rg.coefficients(wrapped):
        parameter.data += 0.1
    rg.add_adapter(wrapped, "melo")
    rg.save_task(path, wrapped, bank)
    expected = inner(vit.batch())
    other = wrap(vit())
    rg.load_task(path, rg.attach(other, bank), bank)
    torch.testing.assert_close(other.eval()(vit.batch()), expected)
    rg.remove_adapter(other)
    assert rg.detach(other) is other and other.state_dict().keys() == wrap(vit()).state_dict().keys()
    torch.testing.assert_close(rg.TaskLibrary(tmp_path, other, bank).use("task") and inner(vit.batch()), expected)


def test_parametrizations_of_others_are_named_as_what_they_are(own):
    model = own()
    nn.utils.parametrizations.weight_norm(model.linears[2])
    with pytest.raises(SourceError, match=r"linears\.2\.weight \(weight_norm\) are parametrized"):
        rg.mimic(model)
    with pytest.raises(AttachError, match=r"linears\.2\.weight is parametrized already \(WeightNorm\)"):
        rg.attach(model, own.bank(own()))


def test_models_without_values_are_refused_and_inference_mode_leaves_a_library_trainable(vit, tmp_path):
    bank = vit.bank(vit())
    with pytest.raises(AttachError, match="meta device, without values"):
        rg.attach(vit().to("meta"), bank)
    rg.save_task(tmp_path / "task.safetensors", adapt(vit, bank, 5, resolution=4), bank)
    model = vit()
    with torch.inference_mode():
        lib = rg.TaskLibrary(tmp_path, model, bank)
        lib.use("task")
        lib(vit.batch())
        with pytest.raises(AttachError, match=r"made under torch\.inference_mode"):
            rg.attach(vit(), bank)
    rg.freeze(lib.model)
    lib.model(vit.batch()).sum().backward()
    assert all(parameter.grad.any() for parameter in rg.coefficients(lib.model))
