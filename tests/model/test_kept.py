"""A generated weight is made once, and never used when what it was made of has changed."""

import copy
import functools
import shutil
import tempfile
import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import recast_gen as rg
from recast_gen.model import parametrizations
from recast_gen.model.attach import attached

from ..conftest import VIT
from .test_switching import adapt


def fresh(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What a model gives when no weight of it was kept."""
    return copy.deepcopy(model)(images)


@pytest.fixture
def mixes(monkeypatch) -> list:
    """Grows with every weight that is generated to be kept."""
    calls, mix = [], parametrizations.mix
    monkeypatch.setattr(parametrizations, "mix", lambda *args: calls.append(args) or mix(*args))
    return calls


@pytest.mark.parametrize("split_qkv", [False, True])
@torch.no_grad()
def test_weights_are_generated_once_until_a_coefficient_changes(vit, mixes, split_qkv):
    model = rg.attach(vit(), rg.mimic(vit(), families=vit.families, split_qkv=split_qkv))
    count = len(attached(model))
    for _ in range(3):
        expected = model(vit.batch())
    assert len(mixes) == count
    assert torch.equal(fresh(model, vit.batch()), expected)
    rg.coefficients(model)[1].data += 1
    del mixes[:]
    assert not torch.equal(model(vit.batch()), expected) and len(mixes) == 1
    with torch.inference_mode():
        model(vit.batch())
    assert len(mixes) == 1


def changes(bank, folder):
    """Ways in which the weights of a model with a bank change, by name."""

    def step(model):
        optimizer = torch.optim.SGD(rg.coefficients(model), 0.1)
        with torch.enable_grad():
            model(VIT.batch()).square().sum().backward()
        optimizer.step()

    def each(change):
        def done(model):
            for parameter in rg.coefficients(model):
                change(parameter)

        return done

    def weight(model):
        model.blocks[1].attn.qkv.weight.mul_(3)

    def dtypes(model):
        model.double()
        model(VIT.batch().double())
        model.float()

    def inference(model):
        with torch.inference_mode():
            each(lambda p: p.mul_(1.01))(model)
            model(VIT.batch())

    def threads(model):
        workers = [threading.Thread(target=lambda: model(VIT.batch())) for _ in range(3)]
        for worker in workers:
            worker.start()
        each(lambda p: p.mul_(0.9))(model)
        for worker in workers:
            worker.join()

    other = adapt(VIT, bank, seed=7)
    return {
        "data": each(lambda p: p.data.add_(0.1)),
        "in place": each(lambda p: p.add_(0.1)),
        "assigned": each(lambda p: setattr(p, "data", p.data * 1.2)),
        "fill": lambda model: nn.init.normal_(rg.coefficients(model)[0]),
        "numpy": each(lambda p: p.detach().numpy().__imul__(0.8)),
        "optimizer": step,
        "state dict": lambda model: model.load_state_dict(other.state_dict()),
        "one": lambda model: rg.load_task(folder / "one.safetensors", model, bank),
        "four": lambda model: rg.load_task(folder / "four.safetensors", model, bank),
        "frozen": lambda model: rg.freeze(model, coefficients=False),
        "trained": lambda model: rg.freeze(model),
        "weight": weight,
        "dtypes": dtypes,
        "inference": inference,
        "threads": threads,
        "adapter": lambda model: rg.add_adapter(rg.remove_adapter(model), "melo"),
        "off": lambda model: rg.remove_adapter(model),
    }


CHANGES = [
    "data", "in place", "assigned", "fill", "numpy", "optimizer", "state dict", "one", "four", "frozen", "trained",
    "weight", "dtypes", "inference", "threads", "adapter", "off",
]  # fmt: skip


@torch.no_grad()
def test_what_is_written_into_templates_counts_and_what_is_written_into_buffers_reaches_no_other_model(cnn):
    bank = cnn.bank(cnn())
    one, other = (rg.attach(cnn(), bank) for _ in range(2))
    expected = other(cnn.batch())
    for buffer in one.buffers():
        buffer.mul_(2)
    assert torch.equal(other(cnn.batch()), expected)
    next(iter(attached(one).values()))[2].templates.values.mul_(1.1)
    assert torch.equal(one(cnn.batch()), fresh(one, cnn.batch()))


@functools.cache
def tasks():
    folder, bank = Path(tempfile.mkdtemp()), VIT.bank(VIT())
    for name, resolution in (("one", 1), ("four", 4)):
        rg.save_task(folder / f"{name}.safetensors", adapt(VIT, bank, 3, resolution, resolution), bank)
    return bank, folder, changes(bank, folder)


@pytest.fixture(scope="module", autouse=True)
def swept():
    yield
    shutil.rmtree(tasks()[1])


@settings(max_examples=6)
@given(order=st.lists(st.sampled_from(CHANGES), min_size=6, max_size=6, unique=True))
@torch.no_grad()
def test_no_stale_weight_is_ever_used(order):
    bank, _, ways = tasks()
    model, images = rg.attach(VIT(), bank), VIT.batch()
    for way in order:
        model(images)
        try:
            ways[way](model)
        except (RuntimeError, rg.RecastError) as error:  # another resolution, or a second adapter
            assert "size mismatch" in str(error) or "adapter" in str(error), way
        assert torch.equal(model(images), fresh(model, images)), way
    expected = model(images)
    with torch.enable_grad():
        assert torch.equal(model(images), expected)
