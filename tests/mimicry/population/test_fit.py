"""A list of networks is one more source: a population, whose draws are complete networks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import recast_gen as rg
from recast_gen.errors import FitError, RecastError, SourceError
from recast_gen.weights import store
from recast_gen.weights.files import save_tensors

from ...conftest import CNN, OWN, VIT

IMAGES = {net.name: net.batch() for net in (VIT, CNN, OWN)}


def members(net, count: int = 4) -> list[torch.nn.Module]:
    return [net(seed) for seed in range(count)]


def fitted(net, networks, **options) -> rg.Population:
    return rg.mimic_vae(networks, input_size=net.images, **options)


def outputs(net, state) -> torch.Tensor:
    model = net()
    model.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(each)) for name, each in state.items()})
    with torch.no_grad():
        return model.eval()(net.batch())


@pytest.mark.parametrize("net", [VIT, CNN], ids=lambda net: net.name)
@pytest.mark.parametrize("options", [{}, {"codes": "block"}, {"solver": "vae", "epochs": 2}], ids=str)
def test_draws_of_the_prior_are_complete_networks_and_the_first_of_a_longer_draw_are_the_same(net, options):
    population = fitted(net, members(net), **options)
    one = rg.sample(population, 1, seed=3, images=IMAGES[net.name])
    two = rg.sample(population, 2, seed=3, images=IMAGES[net.name])
    assert all(np.array_equal(one[0][name], two[0][name]) for name in one[0])
    assert all(torch.isfinite(outputs(net, state)).all() for state in two)
    assert any((two[0][name] != two[1][name]).any() for name in two[0])


@given(seed=st.integers(0, 2**16), count=st.integers(2, 5), aligned=st.booleans())
@settings(max_examples=4)
def test_with_all_templates_the_code_of_an_original_is_that_network(seed, count, aligned):
    networks = [VIT(seed + index) for index in range(count)]
    population = fitted(VIT, networks, aligned=aligned, noise=1e-6)
    for network, code in zip(networks, population.blocks["network"].posterior[0]):
        with torch.no_grad():
            expected = network(VIT.batch())
        torch.testing.assert_close(outputs(VIT, population.network(code)), expected, rtol=1e-3, atol=1e-3)


def test_fewer_templates_lose_as_much_as_the_singular_values_after_them():
    networks = members(VIT, 5)
    population = fitted(VIT, networks, aligned=False, templates=2, noise=1e-9)
    block = population.blocks["network"]
    rows = np.stack([np.concatenate([n.state_dict()[name].numpy().ravel() for name in block.names]) for n in networks])
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
    made = np.stack([np.concatenate([population.network(code)[name].ravel() for name in block.names])
                     for code in block.posterior[0]])  # fmt: skip
    assert np.linalg.norm(rows - made) == pytest.approx(np.linalg.norm(values[2:]), rel=1e-3)


def test_it_is_saved_byte_for_byte_and_opened_from_any_folder(tmp_path, monkeypatch):
    population = fitted(CNN, members(CNN, 3))
    for name in ("one", "two"):
        population.save(tmp_path / name)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert files and all((tmp_path / "one" / f).read_bytes() == (tmp_path / "two" / f).read_bytes() for f in files)
    again = rg.load_population(tmp_path / "one", CNN())
    assert again.hash == population.hash and len(again) == 3
    monkeypatch.chdir(tmp_path)
    drawn = [rg.sample(which, 1, images=IMAGES["cnn"])[0] for which in (population, again)]
    assert all(np.array_equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    with pytest.raises(RecastError, match="population"):
        rg.load_bank(tmp_path / "one")


def test_a_population_whose_rows_are_templates_is_opened_as_before(tmp_path):
    population = fitted(VIT, members(VIT, 3), aligned=False)
    arrays, about = population._contents()
    block = population.blocks["network"]
    del arrays["rows.network"], arrays["mixing.network"]
    arrays["templates.network"] = np.float32(block.mixing @ block.rows)
    store.save(tmp_path / "old", "population", arrays, about)
    again, code = rg.load_population(tmp_path / "old"), np.array([0.5, -1])
    for name, each in population.network(code).items():
        np.testing.assert_allclose(again.network(code)[name], each, atol=1e-5)


def test_a_glob_of_files_is_a_population(tmp_path):
    for index, network in enumerate(members(VIT, 3)):
        tensors = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
        save_tensors(tmp_path / f"{index}.safetensors", tensors, {})
    population = rg.mimic_vae(str(tmp_path / "*.safetensors"), aligned=False)
    assert len(population) == 3 and population.fit["networks"][0].endswith("0.safetensors")
    with pytest.raises(SourceError, match="none"):
        rg.mimic_vae(str(tmp_path / "none*.pt"))


def broken(kind: str) -> list[torch.nn.Module]:
    networks = members(VIT, 3)
    if kind == "one":
        return networks[:1]
    if kind == "classes":
        return [*networks, VIT(7, num_classes=5)]
    if kind == "architecture":
        return [*networks, CNN()]
    if kind == "twice":
        return [*networks, VIT(1)]
    with torch.no_grad():
        networks[2].head.weight[0] = float("nan")
    return networks


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        ("one", FitError, "two or more"),
        ("classes", FitError, "network 3 is of another architecture.*head.weight"),
        ("architecture", FitError, "network 3 is of another architecture"),
        ("twice", FitError, "network 1 and network 3"),
        ("nan", SourceError, "network 2: head.weight"),
    ],
)
def test_what_is_no_population_is_named(kind, error, said):
    with pytest.raises(error, match=said):
        fitted(VIT, broken(kind))


@pytest.mark.parametrize(
    ("options", "said"),
    [({"templates": 3}, "2 directions"), ({"solver": "vea"}, "vae"), ({"codes": "layers"}, "block"),
     ({"norms": "affine"}, "whole networks"), ({"variational": False, "solver": "vae"}, "variational")],
)  # fmt: skip
def test_options_out_of_range_are_named(options, said):
    with pytest.raises(FitError, match=said):
        fitted(VIT, members(VIT, 3), **options)


@pytest.mark.parametrize(("images", "said"), [(None, "images="), (torch.zeros(1, 3, 32, 32), "2 or more")])
def test_batch_norms_ask_for_images(images, said):
    with pytest.raises(FitError, match=said):
        rg.sample(fitted(CNN, members(CNN, 2)), images=images)


def test_batch_norms_have_the_statistics_of_the_images():
    population = fitted(CNN, members(CNN, 3))
    images = torch.randn(64, *CNN.images)
    drawn = rg.sample(population, images=images)[0]
    model = CNN()
    model.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(each)) for name, each in drawn.items()})
    with torch.no_grad():
        seen = torch.nn.functional.conv2d(images, model.conv1.weight, stride=2, padding=3)
    torch.testing.assert_close(model.bn1.running_mean, seen.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.bn1.running_var, seen.var((0, 2, 3)), rtol=1e-4, atol=1e-5)
