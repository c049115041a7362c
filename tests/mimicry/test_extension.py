"""Templates from anywhere leave a bank's weights as they are, and give tasks new directions."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import recast_gen as rg
from recast_gen.errors import FitError, TaskError

from ..conftest import CNN, OWN, VIT

SOURCES = ("random", "layers", "vae", "tasks")


def size(path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@cache
def given_for(net, source: str) -> dict:
    """What a source needs besides the bank."""
    if source == "vae":
        return {"vae": rg.mimic_vae(net(), families=net.families, templates=2, epochs=2)}
    if source == "tasks":
        return {"tasks": [dict(changed(net, seed)) for seed in range(2)]}
    return {}


def changed(net, seed: int) -> dict[str, np.ndarray]:
    """The network's weights, a little on the way to another's."""
    other = net(seed=seed + 1).state_dict()
    return {name: tensor.numpy() + 0.1 * other[name].numpy() for name, tensor in net().state_dict().items()}


@given(st.sampled_from([VIT, CNN, OWN]), st.sampled_from(SOURCES), st.sampled_from([1, 4, "channel"]), st.booleans())
@settings(max_examples=10)
def test_any_source_leaves_base_and_forward_as_they_were(tmp_path_factory, net, source, resolution, norms):
    model, images = net(), net.batch()
    bank = net.bank(model, group_size=1, norms="affine" if norms and net is not OWN else "none")
    count = 1 if net is CNN else 2  # its families have two layers
    extended = rg.extend(bank, count, source, seed=3, **given_for(net, source))
    before, after = bank.base(), extended.base()
    for name in before:
        np.testing.assert_allclose(after[name], before[name], rtol=0, atol=1e-6 * np.abs(before[name]).max())
    for key, group in extended.groups.items():
        more = count if group.templates.ndim > 2 else 0
        assert len(group.templates) == len(bank.groups[key].templates) + more
        assert not group.coefficients[..., group.coefficients.shape[3] - more :].any()
    path = tmp_path_factory.mktemp("bank") / "bank.zarr"
    extended.save(path)
    found = rg.load_bank(path)
    assert found.hash == extended.hash == replace(found).hash
    assert all(np.array_equal(found.groups[key].templates, group.templates) for key, group in extended.groups.items())
    expected = model(images)
    rg.attach(model, found, resolution=resolution)
    torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_extended_bank_rebuilds_the_same_weights(architecture, dtype):
    bank = architecture.bank(architecture().to(dtype), groups=2)
    before, after = bank.base(), rg.extend(bank, 3, seed=1).base()
    tolerance = 1e-2 if dtype == torch.bfloat16 else 1e-6  # one step of rounding
    for name in before:
        assert before[name].dtype == after[name].dtype
        pair = (array.astype(np.float64) for array in (before[name], after[name]))
        np.testing.assert_allclose(*pair, rtol=tolerance, atol=1e-6, err_msg=name)


def test_an_extended_bank_stores_its_new_templates_as_their_seed(own, tmp_path):
    bank = own.bank(own(), groups=1)
    extended = rg.extend(bank, 50, seed=7)
    bank.save(tmp_path / "bank.zarr")
    extended.save(tmp_path / "extended.zarr")
    added = sum(group.templates[-50:].nbytes for group in extended.groups.values())
    coefficients = sum(50 * 4 * len(group.names) for group in extended.groups.values())
    growth = size(tmp_path / "extended.zarr") - size(tmp_path / "bank.zarr")
    assert growth < coefficients + 200 < added / 10
    found = rg.load_bank(tmp_path / "extended.zarr")
    assert found.hash == extended.hash == replace(found).hash
    for key, group in extended.groups.items():
        assert found.groups[key].templates.tobytes() == group.templates.tobytes()


def test_random_templates_differ_between_seeds_and_groups_and_have_the_groups_scale(vit):
    bank = vit.bank(vit(), groups=2)
    one, other = rg.extend(bank, 2, seed=1), rg.extend(bank, 2, seed=2)
    drawn = [group.templates[-2:] for extended in (one, other) for group in extended.groups.values()]
    assert len({np.sign(templates).tobytes() for templates in drawn}) == len(drawn)
    for key, group in bank.groups.items():
        scale = np.sqrt(np.mean(np.square(group.templates, dtype=np.float64)))
        np.testing.assert_allclose(np.abs(one.groups[key].templates[-2:]), scale, rtol=1e-6)


def test_layers_are_the_nearest_of_the_family(vit):
    bank = rg.mimic(vit(), families=["*.qkv"], group_size=1, gauge="identity")
    extended, layers = rg.extend(bank, 2, "layers"), [block.attn.qkv.weight.detach() for block in vit().blocks]
    for index, nearest in enumerate([(1, 2), (0, 2), (1, 3), (2, 1)]):
        for template, other in zip(extended.groups["blocks.*.attn.qkv.weight", index].templates[1:], nearest):
            torch.testing.assert_close(torch.from_numpy(template), layers[other])


def test_samples_lie_in_the_span_of_the_vaes_templates_and_differ_between_seeds(vit):
    bank = rg.mimic_vae(vit(), families=["*.qkv"], templates=2, epochs=2)
    (one,), (other,) = (rg.extend(bank, 2, "vae", seed=seed).groups.values() for seed in range(2))
    assert not np.array_equal(one.templates, other.templates)
    assert np.linalg.matrix_rank(one.templates.reshape(4, -1).astype(np.float64), tol=1e-4) == 2


def test_what_a_task_changed_is_in_reach_of_one_number_a_layer(vit, tmp_path):
    bank = rg.mimic(vit(), families=["*.qkv"], group_size=1)
    model = rg.attach(vit(), bank, resolution="channel")
    for parameter in rg.coefficients(model):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    rg.save_task(tmp_path / "task.safetensors", model, bank)
    learnt = rg.generate(bank, tmp_path / "task.safetensors")
    for task in (tmp_path / "task.safetensors", learnt):
        extended = rg.extend(bank, 1, "tasks", tasks=[task])
        for group in extended.groups.values():
            own, direction = group.templates.reshape(2, -1)
            target = learnt[group.names[0]].reshape(-1) - own * group.coefficients[0, 0, 0, 0]
            left = target - direction * (target @ direction) / (direction @ direction)
            assert np.linalg.norm(left) < 1e-4 * np.linalg.norm(target)
            np.testing.assert_allclose(np.std(direction), np.std(own), rtol=0.1)


def test_weights_that_began_as_a_backbone_are_its_tasks_however_little_a_bank_keeps_of_it(vit):
    bank = rg.mimic(vit(), families=["*.qkv"], groups=1, templates=1)
    (group,) = rg.extend(bank, 1, "tasks", tasks=[changed(vit, 0)]).groups.values()
    assert len(group.templates) == 2


def test_an_extended_bank_of_a_vae_is_still_sampled(vit):
    bank = rg.extend(rg.mimic_vae(vit(), families=["*.qkv"], templates=2, epochs=2), 3)
    (drawn,) = rg.sample(bank, 1)
    assert all(numbers.shape == (1, 1, 5) and not numbers[..., 2:].any() for numbers in drawn.values())


def test_what_a_source_does_not_have_is_refused(vit, cnn, tmp_path):
    bank = rg.mimic(vit(), families=["*.qkv"], groups=2)
    with pytest.raises(FitError, match="has 2 other layers in its family, fewer than templates=3"):
        rg.extend(bank, 3, "layers")
    with pytest.raises(FitError, match=r"has no VAE for group .*qkv.*give vae="):
        rg.extend(bank, 1, "vae")
    with pytest.raises(FitError, match="in 0 directions, fewer than templates=1: give more tasks"):
        rg.extend(bank, 1, "tasks")
    with pytest.raises(FitError, match="in 0 directions"):
        rg.extend(bank, 1, "tasks", tasks=[bank.base()])
    with pytest.raises(FitError, match=r"no blocks\.0\.attn\.qkv\.weight in the bank's shape"):
        rg.extend(bank, 1, "tasks", tasks=[changed(cnn, 0)])
    torch.save(vit(seed=7).state_dict(), tmp_path / "other.pt")
    with pytest.raises(FitError, match=r"other\.pt: layers of another network than the bank's, with cosine -?0\.0"):
        rg.extend(bank, 1, "tasks", tasks=[tmp_path / "other.pt"])
    other = rg.mimic(vit(), families=["*.qkv"])
    rg.save_task(tmp_path / "task.safetensors", rg.attach(vit(), other), other)
    with pytest.raises(TaskError, match="belongs to bank"):
        rg.extend(bank, 1, "tasks", tasks=[tmp_path / "task.safetensors"])


def test_an_extension_that_cannot_be_is_refused(vit):
    bank = vit.bank(vit())
    with pytest.raises(FitError, match="Did you mean 'random'"):
        rg.extend(bank, 2, source="ramdom")
    with pytest.raises(FitError, match="templates=0"):
        rg.extend(bank, 0)
    with pytest.raises(FitError, match="already has 2 random templates"):
        rg.extend(rg.extend(bank, 2), 2)
