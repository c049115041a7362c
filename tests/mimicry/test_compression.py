"""Every layout is at its optimum, plain and in the norm of the inputs; budgets hold; auto is the best of them."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import recast_gen as rg
from recast_gen.bank.layouts import NAMED, Layout
from recast_gen.errors import AttachError, DataError, FitError
from recast_gen.mimicry.factorization import Factorization
from recast_gen.mimicry.measures import overall
from recast_gen.mimicry.optimum import Problem, energy, invertible

LAYOUTS = ["layer", "row", "column", "tile", "l (p a) (q c) -> (l c a) (q p)"]
CASES = st.tuples(
    st.sampled_from(LAYOUTS), st.lists(st.sampled_from([2, 4]), min_size=2, max_size=4), st.integers(1, 3),
    st.integers(1, 4), st.integers(0, 2**32 - 1),
)  # fmt: skip  # layout, shape, layers, rank of the stack, seed


def draw(case, inputs: bool) -> Problem:
    name, shape, layers, rank, seed = case
    rng, size = np.random.default_rng(seed), math.prod(shape[1:])
    axes = (("p", 2), ("q", 2)) if "(" in name.partition("->")[0] or name == "tile" else ()
    layout = Layout(NAMED.get(name, name), tuple(shape), axes)
    stack = rng.standard_normal((layers, shape[0], rank)) @ rng.standard_normal((layers, rank, size))
    seen = rng.standard_normal((layers, size, max(1, size - 1)))  # fewer images than inputs
    moments = np.stack([invertible(moment) for moment in seen @ seen.swapaxes(1, 2)]) if inputs else None
    return Problem(layout, stack.reshape(layers, *shape).astype(np.float32), moments)


@given(CASES, st.integers(1, 8))
def test_the_error_of_every_layout_is_the_svds_of_its_matrix(case, templates):
    problem = draw(case, inputs=False)
    fit = problem.fit(min(templates, problem.most))
    assert fit.templates.dtype == fit.coefficients.dtype == np.float32
    singular = np.linalg.svd(problem.layout.matrix(problem.layers).astype(np.float64), compute_uv=False)
    expected = np.square(singular[len(fit.templates) :]).sum()
    assert problem.lost(fit) == pytest.approx(expected, abs=1e-5 * np.square(singular).sum())


@given(CASES, st.integers(1, 8))
def test_in_the_norm_of_the_inputs_it_is_the_weighted_svds(case, templates):
    problem = draw(case, inputs=True)
    fit, layers = problem.fit(min(templates, problem.most)), problem.layers
    total = energy(layers.reshape(*layers.shape[:2], -1), problem.moments)
    if not problem.pooling:  # literally: the SVD of the matrix of W S^1/2
        roots = np.stack([np.linalg.cholesky(moment) for moment in problem.layout.inputs(problem.moments)])
        a, c, p, q = problem.layout.counts
        parts = problem.matrix.reshape(len(layers), a, c, p, q).swapaxes(2, 3).reshape(len(layers), a * p, c * q)
        weighted = (parts @ roots).reshape(len(layers), a, p, c, q).swapaxes(2, 3).reshape(problem.matrix.shape)
        expected = np.square(np.linalg.svd(weighted, compute_uv=False)[len(fit.templates) :]).sum()
        assert problem.lost(fit) == pytest.approx(expected, abs=1e-5 * total)
    plain = Problem(problem.layout, layers).fit(len(fit.templates))
    if not problem.pooling or len(fit.templates) == problem.most:
        assert problem.lost(fit) <= problem.lost(plain) + 1e-5 * total
    rng = np.random.default_rng(0)
    for _ in range(3):  # no other coefficients are better for these templates
        other = fit.coefficients + 0.01 * rng.standard_normal(fit.coefficients.shape).astype(np.float32)
        assert problem.lost(fit) <= problem.lost(Factorization(fit.templates, other)) + 1e-6 * total


@given(st.sampled_from([0.3, 0.5, 0.8]), st.integers(0, 99))
def test_auto_stores_no_more_than_its_budget_and_is_never_worse_than_each_layout_and_per_layer_svd(budget, seed):
    rng = np.random.default_rng(seed)
    names = {f"blocks.{layer}.fc.weight": rng.standard_normal((8, 16)).astype(np.float32) for layer in range(3)}
    best = overall(rg.mimic(names, layout="auto", budget=budget).certificate.values())
    assert best["stored_share"] <= budget and best["relative_error"] == pytest.approx(best["bound"], abs=1e-6)
    others = [{"layout": name} for name in ("row", "column", "tile", "layer")] + [{"layout": "row", "group_size": 1}]
    for settings in others:
        try:
            other = overall(rg.mimic(names, budget=budget, **settings).certificate.values())
        except FitError as error:
            assert "less than one template" in str(error)
            continue
        assert best["relative_error"] <= other["relative_error"] + 1e-6
    rank, lost = int(budget * 8 * 16 / (8 + 16)), 0
    for weight in names.values():
        lost += np.square(np.linalg.svd(weight, compute_uv=False)[rank:]).sum()
    assert best["relative_error"] <= np.sqrt(lost / sum(np.square(w).sum() for w in names.values())) + 1e-6


def test_with_images_auto_has_the_least_output_error(own):
    model, images = own(), own.batch()
    moments = rg.moments(model, images, own.families)

    def errors(**settings) -> np.ndarray:
        bank = own.bank(model, budget=0.5, **settings)
        weights, state = bank.base(), model.state_dict()
        assert overall(bank.certificate.values())["stored_share"] <= 0.5
        lost = [
            [energy((state[name].numpy() - array).reshape(1, len(array), -1), invertible(moments[name])[None])
             for name, array in weights.items() if name in group.names]
            for group in bank.groups.values()
        ]  # fmt: skip
        by_family = {family: 0.0 for family, _ in bank.groups}
        for (family, _), values in zip(bank.groups, lost):
            by_family[family] += sum(values)
        return np.array(list(by_family.values()))

    best = errors(layout="auto", whiten=moments)
    for settings in ({"layout": "auto"}, *({"layout": name, "whiten": moments} for name in ("row", "column", "tile"))):
        assert (best <= errors(**settings) * (1 + 1e-4)).all()
    np.testing.assert_allclose(best, errors(layout="auto", whiten=images), rtol=1e-4)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "settings",
    [{"layout": "row", "budget": 0.6}, {"layout": "auto", "budget": 0.7}, {"layout": "tile", "axes": {"p": 4, "q": 8}}],
)
def test_a_compressed_bank_comes_back_opens_lazily_and_generates(architecture, tmp_path, settings, packed):
    model = architecture()
    bank = architecture.bank(model, **settings)
    path = tmp_path / "bank"
    written = bank.save(path, packed=packed)
    found = rg.load_bank(path)
    assert found.hash == bank.hash == written == type(bank)(found.groups, found.rest, found.backbone, found.fit).hash
    assert found.certificate == bank.certificate and found.shapes == bank.shapes
    base, generated = bank.base(), rg.generate(path)
    assert list(generated) == list(base) and all(np.array_equal(generated[name], base[name]) for name in base)
    rg.pack(path, tmp_path / "other") if not packed else rg.unpack(path, tmp_path / "other")
    assert rg.load_bank(tmp_path / "other").hash == written
    share = overall(bank.certificate.values())["stored_share"]
    assert share <= settings.get("budget", 2)
    for key, group in bank.groups.items():
        measured = bank.certificate[key]
        assert measured["stored_bytes"] == group.templates.nbytes + group.coefficients.nbytes
        assert measured["original_bytes"] == 4 * len(group.names) * math.prod(group.shape)
        stack = np.stack([model.state_dict()[name].numpy() for name in group.names])
        errors = np.stack([base[name] for name in group.names]) - stack
        assert measured["relative_error"] == pytest.approx(np.linalg.norm(errors) / np.linalg.norm(stack), abs=1e-5)
        assert measured["gap"] < 1e-5 and len(measured["cosine"]) == len(group.names)


def test_half_precision_weights_keep_their_dtype(vit):
    bank = vit.bank(vit().to(torch.bfloat16), layout="row", budget=0.5)
    assert {array.dtype.name for name, array in bank.base().items() if name in bank.layers} == {"bfloat16"}
    assert overall(bank.certificate.values())["stored_share"] <= 1.0  # float32 factors of 2-byte numbers


def test_what_compresses_is_not_attached_or_extended_but_whole_layers_at_a_budget_are(vit):
    model = vit()
    with pytest.raises(AttachError, match="layout 'l o i -> .l o. i'.*layout='layer'"):
        rg.attach(model, vit.bank(model, layout="row"))
    with pytest.raises(FitError, match="only whole layers can be extended"):
        rg.extend(vit.bank(model, layout="row"), 1)
    rg.attach(model, vit.bank(model, layout="layer", budget=0.8))


def test_moments_give_the_energy_of_the_outputs_for_every_kind_of_layer():
    layers = [
        (nn.Linear(4, 5, bias=False), (3, 6, 4)),
        (nn.Conv1d(4, 5, 3, padding="same", bias=False), (3, 4, 9)),
        (nn.Conv2d(4, 6, 3, stride=2, dilation=2, padding=1, bias=False), (3, 4, 11, 9)),
        (nn.Conv3d(2, 3, 2, padding=1, padding_mode="circular", bias=False), (2, 2, 4, 5, 3)),
    ]
    for layer, shape in layers:
        model, images = nn.Sequential(layer), torch.randn(shape)
        outputs, weight = layer(images), layer.weight.detach().numpy()
        moment = rg.moments(model, images, ["*.weight"])["0.weight"]
        places = outputs.numel() / len(weight)
        expected = float(outputs.detach().square().sum()) / places
        assert energy(weight.reshape(1, len(weight), -1), moment[None]) == pytest.approx(expected, rel=1e-4)
    grouped = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4))
    assert rg.moments(grouped, torch.randn(2, 4, 5, 5), ["*.weight"])["0.weight"].shape == (9, 9)


def test_what_cannot_be_calibrated_is_refused_by_name(own):
    model = own()
    with pytest.raises(DataError, match="does not take the calibration images"):
        own.bank(model, layout="row", budget=0.5, whiten=torch.zeros(2, 5, 16, 16))
    with pytest.raises(DataError, match="NaN or infinity before convs.1"):
        own.bank(model, layout="row", budget=0.5, whiten=torch.full((2, 3, 16, 16), torch.nan))
    with pytest.raises(DataError, match="No calibration images"):
        own.bank(model, layout="row", budget=0.5, whiten=[])
    with pytest.raises(FitError, match="no input moment of convs.1.weight"):
        own.bank(model, layout="row", budget=0.5, whiten={"convs.0.weight": np.eye(27)})
    moments = {name: np.eye(3) for name in rg.moments(model, own.batch(), own.families)}
    with pytest.raises(FitError, match=r"moment of convs.1.weight is \(3, 3\); expected \(72, 72\)"):
        own.bank(model, layout="row", budget=0.5, whiten=moments)
    with pytest.raises(FitError, match="no weight of a Linear or Conv layer"):
        rg.moments(nn.Sequential(nn.ConvTranspose2d(2, 2, 3)), torch.zeros(1, 2, 4, 4), ["*.weight"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"budget": 0}, "budget=0: expected a share"),
        ({"budget": 1.5}, "budget=1.5: expected a share"),
        ({"budget": "half"}, "budget='half'"),
        ({"budget": 0.5, "templates": 2}, "Both budget=0.5 and templates=2"),
        ({"budget": 0.001}, r"Family 'blocks.*less than one template a group: give 0\.\d+"),
        ({"layout": "auto"}, "give a budget"),
        ({"layout": "tile"}, "give a budget"),
        ({"layout": "rows"}, "Family 'blocks.*Did you mean 'row'"),
        ({"layout": "row", "templates": 0}, "templates=0"),
        ({"layout": "row", "solver": "direct"}, "leave out solver"),
        ({"layout": "row", "gauge": "identity"}, "leave out solver, gauge"),
        ({"layout": "row", "sets": 2}, "leave out"),
    ],
)
def test_settings_that_cannot_be_are_refused(vit, settings, words):
    with pytest.raises(FitError, match=words):
        vit.bank(vit(), **settings)


@pytest.mark.parametrize("layout", ["row", "column", "tile", "layer"])
def test_layers_of_less_rank_than_templates_are_exact(own, layout):
    weight = torch.randn(8, 16, 3, 3)
    weight[3], weight[4] = weight[0], 1e-20 * weight[1]
    axes = {"axes": {"p": 4, "q": 4}} if layout == "tile" else {}
    bank = rg.mimic({"l.0.weight": weight, "l.1.weight": weight.clone()}, layout=layout, **axes)
    assert all(measured["relative_error"] < 1e-5 for measured in bank.certificate.values())


def test_the_least_budget_that_is_named_suffices(own):
    how = {"families": own.families[:1], "layout": "row"}
    with pytest.raises(FitError, match="give 0") as refused:
        rg.mimic(own(), **how, budget=0.01)
    rg.mimic(own(), **how, budget=float(re.search(r"give ([\d.]+) or more", str(refused.value))[1]))


def test_calibration_leaves_every_module_in_its_mode(cnn):
    model = cnn().train()
    model.bn1.eval()
    modes = [module.training for module in model.modules()]
    rg.moments(model, cnn.batch(), cnn.families)
    assert [module.training for module in model.modules()] == modes and not model.bn1.training
