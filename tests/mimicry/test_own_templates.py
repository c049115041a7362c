"""Templates that every layer has for itself cost no bytes, change nothing at 0, and are the same through every door."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

import recast_gen as rg
from recast_gen.bank.own import Own
from recast_gen.errors import FitError

from ..conftest import CNN, OWN, VIT

SIZES = {"singular": {"rank": 2}, "fourier": {"templates": 3}}


def moved(model: torch.nn.Module, size: float = 0.05) -> None:
    generator = torch.Generator().manual_seed(1)
    for numbers in rg.coefficients(model):
        numbers.data += size * torch.randn(numbers.shape, generator=generator)


@given(st.sampled_from([VIT, CNN, OWN]), st.sampled_from(sorted(SIZES)), st.sampled_from([1, 2, "channel"]))
@settings(max_examples=8)
def test_generated_live_and_mixed_weights_are_the_same(tmp_path_factory, net, source, resolution):
    folder, images = tmp_path_factory.mktemp("bank"), net.batch()
    bank = net.bank(net(), groups=2)
    extended = rg.extend(bank, source=source, seed=3, **SIZES[source])
    assert all(np.array_equal(tensor, bank.base()[name]) for name, tensor in extended.base().items())
    written = [made.save(folder / name, packed=True) for name, made in (("plain", bank), ("extended", extended))]
    assert (folder / "extended").stat().st_size < (folder / "plain").stat().st_size + 4 * sum(
        group.coefficients.size for group in extended.groups.values()
    ) + 8192 and written[1] == extended.hash == rg.load_bank(folder / "extended").hash
    model = net()
    expected = model(images)
    rg.attach(model, extended, resolution=resolution)
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)
    (tasks := folder / "tasks").mkdir()
    rg.save_task(tasks / "base.safetensors", model, extended, net.head)
    moved(model)
    rg.save_task(tasks / "moved.safetensors", model, extended, net.head)
    expected = model(images).detach()
    plain = net()
    state = rg.generate(folder / "extended", tasks / "moved.safetensors")
    plain.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    torch.testing.assert_close(plain(images), expected, rtol=1e-3, atol=1e-4)
    found = rg.TaskLibrary(tasks, net(), extended)(images, tasks=["moved"] * (len(images) - 1) + ["base"])
    torch.testing.assert_close(found[:-1], expected[:-1], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(found[-1], expected[-1], rtol=1e-3, atol=1e-4)


def test_singular_templates_hold_the_layers_largest_directions():
    rng = np.random.default_rng(0)
    (left, _), (right, _) = (np.linalg.qr(rng.standard_normal((size, size))) for size in (12, 20))
    weight = (left[:, :12] * np.r_[9.0, 8.0, 7.0, np.full(9, 0.1)]) @ right[:12]
    factors = Own("singular", 3, 7).factors(weight.reshape(12, 5, 2, 2))
    rows = factors.left / np.linalg.norm(weight)
    np.testing.assert_allclose(rows @ rows.T, left[:, :3] @ left[:, :3].T, atol=1e-3)
    np.testing.assert_allclose(factors.right.T @ factors.right, right[:3].T @ right[:3], atol=1e-3)


@pytest.mark.parametrize("source", sorted(SIZES))
def test_templates_are_orthogonal_and_as_large_as_their_layer(source):
    weight = np.random.default_rng(0).standard_normal((8, 3, 2, 2)).astype(np.float32)
    factors = Own(source, 3, 5).factors(weight)
    templates = np.stack([factors.mixed(one[None]).reshape(-1) for one in np.eye(factors.count, dtype=np.float32)])
    wanted = np.square(np.linalg.norm(weight)) * np.eye(factors.count)
    np.testing.assert_allclose(templates @ templates.T, wanted, atol=1e-3 * wanted.max())
    other = Own(source, 3, 6).factors(weight)
    assert not np.allclose(other.right, factors.right)


def test_one_number_a_pair_is_an_adapter_of_that_rank_for_peft(vit, tmp_path):
    bank = rg.extend(vit.bank(vit(), groups=2), source="singular", rank=1)
    model = rg.attach(vit(), bank)
    for numbers in rg.coefficients(model):
        numbers.data[..., -1] = 0.1
    rg.save_task(tmp_path / "task", model, bank)
    rg.to_peft(bank, tmp_path / "task", tmp_path / "peft")
    tensors = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    assert {len(tensor) for name, tensor in tensors.items() if "lora_A" in name} == {1}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"source": "singular", "rank": 99}, "for which rank is at most .*found 99"),
        ({"source": "fourier", "templates": 10**9}, "for which templates is at most"),
        ({"source": "singular", "templates": 2}, "rank= is for 'singular'"),
        ({"source": "singular"}, "rank= is for 'singular'"),
        ({"source": "random", "rank": 2}, "rank= is for 'singular'"),
        ({"source": "singular", "rank": 0}, "rank=0: expected a whole number"),
        ({"source": "fourier"}, "templates=None"),
        ({"source": "wavelet", "templates": 2}, "wavelet.*singular, fourier"),
    ],
)
def test_what_a_layer_does_not_have_is_refused(vit, given, said):
    with pytest.raises(FitError, match=said):
        rg.extend(vit.bank(vit(), groups=2), **given)


def test_a_bank_has_one_kind_of_templates_besides_its_own(vit):
    bank = rg.extend(vit.bank(vit(), groups=2), source="singular", rank=1)
    with pytest.raises(FitError, match="already has singular templates"):
        rg.extend(bank, 2)
