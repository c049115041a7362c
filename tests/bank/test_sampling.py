"""What is sampled lies around what was fitted; what is interpolated begins and ends where it should."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import recast_gen as rg
from recast_gen.errors import FitError, TaskError

from ..process import recast


@pytest.fixture(scope="module")
def bank(vit):
    return rg.mimic_vae(vit(), families=vit.families, groups=2, solver="ppca")


def test_a_posterior_sample_lies_around_the_backbones_own_coefficients(bank, tmp_path):
    bank.save(tmp_path / "bank.zarr")
    mean, again = (
        rg.sample(of, temperature=0.0, seed=seed)[0] for of, seed in ((tmp_path / "bank.zarr", 0), (bank, 1))
    )
    drawn = rg.sample(bank, 2000, temperature=2.0, seed=1)
    for group in bank.groups.values():
        for index, name in enumerate(group.names):
            np.testing.assert_allclose(mean[name], group.coefficients[index], rtol=1e-3, atol=1e-5)
            assert np.array_equal(mean[name], again[name])
            values, deviation = np.array([one[name][0, 0] for one in drawn]), 2 * group.posterior[1][index]
            assert (np.abs(values.mean(0) - mean[name][0, 0]) < 0.15 * deviation).all()
            np.testing.assert_allclose(values.std(0), deviation, rtol=0.1)


def test_the_first_of_more_samples_are_the_same_and_another_seed_gives_others(bank):
    few, more, others = rg.sample(bank, 2, seed=3), rg.sample(bank, 5, seed=3), rg.sample(bank, 2, seed=4)
    for name in bank.layers:
        assert np.array_equal(few[1][name], more[1][name]) and not np.array_equal(few[1][name], others[1][name])


def test_a_prior_sample_knows_no_layer_and_leaves_added_templates_alone(bank):
    drawn = rg.sample(rg.extend(bank, 3), 4000, source="prior")
    for name, group in bank.layers.items():
        values = np.array([one[name][0, 0] for one in drawn])
        assert np.abs(values.mean(0)).max() < 0.1 and np.abs(values.std(0)[: len(group.templates)] - 1).max() < 0.1
        assert not values[:, len(group.templates) :].any()


def test_a_sample_is_a_complete_network(bank, vit):
    weights = rg.generate(bank, rg.sample(bank)[0])
    vit().load_state_dict({name: torch.from_numpy(tensor) for name, tensor in weights.items()}, strict=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"n": 0}, "n=0"), ({"temperature": -1}, "temperature=-1"), ({"temperature": float("nan")}, "temperature=nan"),
     ({"source": "priot"}, "Did you mean 'prior'")],
)  # fmt: skip
def test_options_out_of_range_are_refused(bank, options, message):
    with pytest.raises(FitError, match=message):
        rg.sample(bank, **options)


@pytest.mark.parametrize("settings", [{"variational": False, "epochs": 2}, None])
def test_a_bank_without_a_distribution_is_not_sampled(vit, settings):
    bank = rg.mimic(vit()) if settings is None else rg.mimic_vae(vit(), **settings)
    with pytest.raises(FitError, match=r"no distribution to sample.*variational=True"):
        rg.sample(bank)


def test_between_two_tasks_their_coefficients_and_heads_are_mixed(bank, vit, tmp_path):
    tasks = []
    for seed in (0, 1):
        model = vit()
        rg.attach(model, bank)
        with torch.no_grad():
            for parameter in [*rg.coefficients(model), model.head.weight]:
                parameter += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
        tasks.append(tmp_path / f"{seed}.safetensors")
        rg.save_task(tasks[-1], model, bank, head="head")
    between = rg.interpolate(bank, *tasks, steps=3)
    first, middle, last = (rg.generate(bank, task) for task in between)
    for end, path in ((first, tasks[0]), (last, tasks[1])):
        assert all(np.array_equal(tensor, end[name]) for name, tensor in rg.generate(bank, path).items())
    for name, tensor in middle.items():
        np.testing.assert_allclose(tensor, (first[name] + last[name]) / 2, atol=1e-5)
    from_base = rg.interpolate(bank, None, tasks[0], steps=2)[0]
    assert all(np.array_equal(tensor, rg.generate(bank)[name]) for name, tensor in rg.generate(bank, from_base).items())


def test_between_two_layers_one_of_them_moves(bank):
    one, other = next(iter(bank.groups.values())).names
    made = [rg.generate(bank, task) for task in rg.interpolate(bank, one, other, steps=3)]
    base = rg.generate(bank)
    np.testing.assert_allclose(made[1][one], (base[one] + base[other]) / 2, atol=1e-6)
    assert np.array_equal(made[2][one], base[other])
    assert all(np.array_equal(base[name], weights[name]) for weights in made for name in base if name != one)


def test_ends_that_do_not_go_together_are_refused(bank):
    first, second = (group.names[0] for group in list(bank.groups.values())[:2])
    with pytest.raises(FitError, match="different groups"):
        rg.interpolate(bank, first, second)
    with pytest.raises(FitError, match="is a layer, the other end is not"):
        rg.interpolate(bank, first, None)
    with pytest.raises(FitError, match="steps=1"):
        rg.interpolate(bank, None, None, steps=1)
    fine = {name: np.zeros((1, 4, len(group.templates)), np.float32) for name, group in bank.layers.items()}
    coarse = {name: np.zeros((1, 2, len(group.templates)), np.float32) for name, group in bank.layers.items()}
    with pytest.raises(TaskError, match="of one resolution"):
        rg.interpolate(bank, fine, coarse)


def test_the_commands_write_task_files_that_generate_reads(bank, tmp_path):
    bank.save(tmp_path / "bank.zarr")

    def command(*words) -> None:
        done = recast(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr

    command("sample", "bank.zarr", "--n", 2, "--temperature", 0.5, "--seed", 7, "--out", "drawn")
    command("generate", "bank.zarr", "drawn/sample_001.safetensors", "--out", "made.safetensors")
    expected = rg.generate(bank, rg.sample(bank, 2, 0.5, seed=7)[1])
    made = load_file(tmp_path / "made.safetensors")
    assert all(np.array_equal(made[name], tensor) for name, tensor in expected.items())
    command("interpolate", "bank.zarr", "base", "drawn/sample_000.safetensors", "--steps", 3, "--out", "between")
    assert len(list((tmp_path / "between").iterdir())) == 3
