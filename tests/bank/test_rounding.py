"""A task in few bits: what a file gives back, how little a head loses, and what cannot be rounded."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

import recast_gen as rg
from recast_gen.bank import packing, quantization, taskfile
from recast_gen.bank.quantization import moments
from recast_gen.bank.rounding import COEFFICIENT_BITS, HEAD_BITS, rounded
from recast_gen.errors import TaskError

from .test_taskfile import make_bank, make_task, same


def correlated(images: int, features: int, seed: int = 0) -> np.ndarray:
    """Features of a few directions and some noise, as networks have them."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((images, 3)) @ rng.standard_normal((3, features)) + 0.1 * rng.standard_normal(features)


def lost(weight: np.ndarray, found: packing.Levels, features: np.ndarray) -> float:
    """Root mean square change of logits on these features, up to a bias of each class."""
    change = features @ (found.values() - weight).T
    return float(np.sqrt(np.square(change - change.mean(0)).mean()))


@given(st.sampled_from(HEAD_BITS), st.sampled_from(COEFFICIENT_BITS), *(st.integers(1, 3) for _ in range(4)),
       st.integers(0, 2**32 - 1))  # fmt: skip
@pytest.mark.filterwarnings("ignore:What the head sees")
def test_a_rounded_task_comes_back_bit_for_bit_and_is_written_as_it_was_read(
    tmp_path_factory, head_bits, coefficient_bits, templates, sets, resolution, classes, seed
):
    path, bank = tmp_path_factory.mktemp("task") / "task.safetensors", make_bank(2, templates, 2)
    task = make_task(bank, sets, resolution, classes, seed)
    task.head["head.bias"] = np.arange(classes, dtype=np.float32)
    few = rounded(task, bank, head_bits, coefficient_bits)
    taskfile.write(path, few, bank)
    found, written = taskfile.read(path, bank), path.read_bytes()
    assert same(found, few)
    taskfile.write(path, found, bank)
    assert path.read_bytes() == written
    again = rounded(replace(found, kept={}), bank, head_bits, coefficient_bits)
    for name, array in task.coefficients.items():
        step = np.abs(array - bank.layers[name].coefficients.mean()).max() + 4  # of the family's largest
        assert (
            np.abs(found.coefficients[name] - array).max()
            <= {32: 0, 16: 2e-3, 8: step / 127, 4: step / 7}[coefficient_bits]
        )
        np.testing.assert_allclose(again.coefficients[name], found.coefficients[name], atol=1e-6)


def test_what_was_changed_after_rounding_is_written_as_it_is(tmp_path):
    bank = make_bank(2, 2)
    few = rounded(make_task(bank), bank, 2, 8, moments(np.eye(4)))
    few.head["head.weight"] = few.head["head.weight"] + 1
    few.coefficients["blocks.1.weight"] = few.coefficients["blocks.1.weight"] + 1
    taskfile.write(tmp_path / "task.safetensors", few, bank)
    assert same(taskfile.read(tmp_path / "task.safetensors", bank), few)


@given(st.sampled_from([8, 4, 3, 2, 1]), st.integers(1, 40), st.integers(1, 9), st.booleans())
def test_packed_levels_are_as_short_as_their_bits_or_shorter(bits, features, classes, plain):
    rng = np.random.default_rng(features)
    found = quantization.rounded(rng.standard_normal((classes, features)) ** 3, bits, None)
    data, coded = packing.to_bytes(found)
    assert len(data) <= 2 * classes + -(-classes * features * bits // 8)
    back, left = packing.from_bytes(data + b"left", found.shape, packing.kind(found), coded)
    assert left == b"left" and np.array_equal(back.values(), found.values())


@given(st.sampled_from([4, 3, 2, 1]), st.integers(8, 24), st.integers(1, 5), st.integers(0, 99))
def test_logits_change_less_where_what_the_head_sees_is_known(bits, features, classes, seed):
    seen = correlated(60, features, seed)
    weight = np.random.default_rng(seed).standard_normal((classes, features))
    known, plain = quantization.rounded(weight, bits, moments(seen)), quantization.rounded(weight, bits)
    assert lost(weight, known, seen) < lost(weight, plain, seen)


@pytest.mark.parametrize("seed", range(5))
def test_one_bit_is_about_as_good_as_the_best_of_all_signs(seed):
    seen, weight = correlated(50, 9, seed), np.random.default_rng(seed).standard_normal((1, 9))
    signs = np.array(list(product([-1.0, 1.0], repeat=9)))
    cov = moments(seen).damped
    scales = np.maximum((signs @ cov @ weight[0]) / np.einsum("ni,ij,nj->n", signs, cov, signs), 0)

    def error(rows: np.ndarray) -> np.ndarray:
        return np.einsum("ni,ij,nj->n", rows - weight, cov, rows - weight)

    best = error(signs * scales[:, None]).min()
    found = quantization.rounded(weight, 1, moments(seen)).values()
    assert error(found)[0] <= 4 * best  # no change of one sign alone is left that would lessen it


def test_more_bits_lose_less_and_a_bias_keeps_mean_logits():
    bank, seen = make_bank(2, 2), correlated(80, 4) + 3
    task = make_task(bank, classes=5)
    task.head["head.bias"] = np.zeros(5, np.float32)
    logits = seen @ task.head["head.weight"].T
    errors = []
    for bits in (1, 2, 4, 8, 16):
        few = rounded(task, bank, bits, seen=moments(seen))
        found = seen @ few.head["head.weight"].T + few.head["head.bias"]
        np.testing.assert_allclose(found.mean(0), logits.mean(0), atol=0.02)
        errors.append(np.abs(found - logits).max())
    assert errors == sorted(errors, reverse=True)


def test_a_head_of_dead_features_or_of_one_class_is_rounded():
    seen = correlated(30, 6)
    seen[:, 2:4] = 0.0
    for weight in (np.zeros((3, 6)), np.ones((1, 6)), np.eye(6)):
        for bits in (8, 2, 1):
            found = quantization.rounded(weight, bits, moments(seen)).values()
            assert np.isfinite(found).all()
        assert lost(weight, quantization.rounded(weight, 8, moments(seen)), seen) < 0.05


HEAD = {"head.weight": np.ones((2, 4), np.float32), "head.bias": np.ones(2, np.float32)}


@pytest.mark.parametrize(
    ("asked", "head", "seen", "said"),
    [
        ({"head_bits": 5}, HEAD, None, "head_bits=5: expected one of 32, 16, 8, 4, 3, 2, 1"),
        ({"head_bits": True}, HEAD, None, "head_bits=True"),
        ({"coefficient_bits": 2}, HEAD, None, "coefficient_bits=2: expected one of 32, 16, 8, 4"),
        ({"head_bits": 4}, HEAD | {"head.norm": np.ones(4, np.float32)}, None, "not linear.*head.norm 4"),
        ({"head_bits": 4}, {"head.weight": np.ones((2, 4, 1, 1), np.float32)}, None, "not linear.*head_bits=16 or 32"),
        ({"head_bits": 4}, HEAD, np.ones((3, 7)), "7 features were given; the head sees 4"),
        ({"head_bits": 4}, HEAD, np.full((3, 4), np.nan), "not finite"),
        ({"head_bits": 4}, {"head.weight": np.full((2, 4), 1e-9, np.float32)}, np.eye(4), "from .* to 1e-09.*32 bits"),
    ],
)
@pytest.mark.filterwarnings("ignore:What the head sees")
def test_what_cannot_be_rounded_is_refused_in_words(asked, head, seen, said):
    bank = make_bank(2, 2)
    task = replace(make_task(bank), head=dict(head))
    with pytest.raises(TaskError, match=said):
        rounded(task, bank, **asked, seen=None if seen is None else moments(seen))


def test_without_moments_or_with_those_of_equal_images_a_warning_says_what_is_lost():
    bank = make_bank(2, 2)
    plain = quantization.rounded(make_task(bank).head["head.weight"], 2)
    for seen, said in (
        (None, "was not kept"),
        (moments(np.ones((5, 4))), "the same features of all 5 images"),
    ):
        with pytest.warns(UserWarning, match=f"{said}.*logits change more"):
            found = rounded(make_task(bank), bank, 2, seen=seen)
        assert np.array_equal(found.head["head.weight"], plain.values())


@pytest.mark.parametrize("coefficient_bits", [16, 8, 4])
def test_every_door_gives_the_rounded_task(vit, tmp_path, coefficient_bits):
    bank, generator = vit.bank(vit(), groups=2), torch.Generator().manual_seed(0)
    model, images = rg.attach(vit(), bank, resolution=2), vit.batch()
    for parameter in rg.coefficients(model):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.reset_classifier(5)
    features = model.forward_head(model.forward_features(images), pre_logits=True).detach()
    for name, bits in (("float", 32), ("task", 2)):
        path = tmp_path / f"{name}.safetensors"
        rg.save_task(path, model, bank, head_bits=bits, coefficient_bits=coefficient_bits, features=features)
    rg.load_task(path, model, bank)
    with torch.no_grad():
        expected = model(images)
        lib = rg.TaskLibrary(tmp_path, vit(), bank)
        lib.use("task")
        for found in (lib.model(images), lib(images, tasks="task"), lib(images, tasks=["float"] * 3 + ["task"])[3:]):
            torch.testing.assert_close(found, expected[-len(found) :], rtol=1e-4, atol=1e-5)
        plain = vit(num_classes=5)
        plain.load_state_dict({k: torch.from_numpy(v) for k, v in rg.generate(bank, path).items()})
        torch.testing.assert_close(plain(images), expected, rtol=1e-4, atol=1e-5)
    rg.to_peft(bank, path, tmp_path / "peft")
    exported = load_file(tmp_path / "peft" / "adapter_model.safetensors")["base_model.model.head.weight"]
    assert len(np.unique(np.abs(exported[0]))) <= 2 and np.array_equal(exported, model.head.weight.detach().numpy())
