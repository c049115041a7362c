"""The helpers of benchmarks.adaptation and benchmarks.incremental, on pico models and made-up results."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from torch import nn

from benchmarks.adaptation import runs, view
from benchmarks.adaptation.methods import METHODS, seeded, stored
from benchmarks.adaptation.own_peers import OneBit
from benchmarks.measured import Table

from ..conftest import CNN, VIT


@dataclass(frozen=True)
class Pico:
    """A pico network in the place of a `backbones.Backbone`."""

    of: object
    name: str
    convolutional: bool

    def __call__(self, classes=None):
        model = self.of()
        if classes:
            setattr(model, self.head, nn.Linear(getattr(model, self.head).in_features, classes))
        return model

    @property
    def head(self):
        return self.of.head

    def bank(self, norms="none", **settings):
        from recast_gen.mimicry.norms import with_norms

        return with_norms(self.of.bank(self.of(), gauge="identity", **settings), norms)


PICOS = {"vit": Pico(VIT, "pico_vit", False), "cnn": Pico(CNN, "pico_cnn", True)}
TRAINED = [
    name
    for name, method in METHODS.items()
    if not method.solve
    and not method.features
    and not method.start
    and not name.endswith(("4", "16"))
    and "tied" not in name  # more numbers than pico networks have coefficients
]


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("pico", PICOS.values(), ids=PICOS)
def test_a_method_starts_at_the_backbone_and_stores_what_it_counts(name, pico, tmp_path):
    if METHODS[name].only not in pico.name:
        pytest.skip("a method for the other kind of network")
    prepared = seeded(METHODS[name], pico, 3, seed=1)
    plain, images = pico(3), pico.of.batch()
    setattr(plain, pico.head, getattr(prepared.model, pico.head))
    near = 2e-3 if name.startswith("Uni-LoRA") else 1e-4  # its vector starts at random, not at 0
    assert torch.allclose(prepared.model.eval()(images), plain(images), atol=near, rtol=near)
    trainable = sum(p.numel() for p in prepared.model.parameters() if p.requires_grad)
    assert sum(prepared.counts.values()) == trainable > prepared.counts["head"] > 0
    size = prepared.save(tmp_path / "task.safetensors")
    numbers = stored(tmp_path / "task.safetensors")
    few = "bit" in name  # eight to a byte
    assert numbers == trainable or few or not prepared.frozen or prepared.faster  # masks are bits; bases are stored too
    assert size == (tmp_path / "task.safetensors").stat().st_size


@pytest.mark.parametrize("pico", PICOS.values(), ids=PICOS)
def test_what_is_trained_in_one_bit_has_two_values_and_an_eighth_of_a_byte_each(pico, tmp_path):
    prepared = seeded(METHODS["LoRA r=1 in 1 bit"], pico, 3, seed=1)
    optimizer = torch.optim.Adam([p for each in prepared.trained.values() for p in each], lr=0.01)
    labels = torch.arange(len(pico.of.batch())) % 3
    losses = []
    for _ in range(30):
        losses.append(nn.functional.cross_entropy(prepared.model(pico.of.batch()), labels))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    head = getattr(prepared.model, pico.head)
    assert len(head.weight.detach().unique()) == 2
    prepared.save(tmp_path / "task.safetensors")
    held = load_file(tmp_path / "task.safetensors")
    for name, parameter in prepared.model.named_parameters():
        if name.endswith(".original"):
            bits = np.unpackbits(held[f"{name}.bits"], count=parameter.numel()).reshape(parameter.shape)
            value = OneBit()(parameter.detach()).numpy()
            assert np.allclose(held[f"{name}.levels"][bits], value, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("pico", PICOS.values(), ids=PICOS)
def test_scales_and_shifts_change_every_layer_but_the_head(pico):
    prepared = seeded(METHODS["SSF"], pico, 3, seed=1)
    layers = [m for path, m in prepared.model.named_modules() if hasattr(m, "ssf_scale") or path == pico.head]
    assert not hasattr(getattr(prepared.model, pico.head), "ssf_scale")
    assert len(prepared.trained["adapter"]) == 2 * (len(layers) - 1) > 4
    before = prepared.model(pico.of.batch())
    for parameter in prepared.trained["adapter"]:
        parameter.data += 0.3
        assert not torch.equal(prepared.model(pico.of.batch()), before)
        parameter.data -= 0.3


@given(st.floats(-9, 3))
def test_the_search_for_a_rate_climbs_to_the_best_of_its_grid_and_asks_once_for_each(peak):
    asked = []

    def score(rate):
        asked.append(rate)
        return -abs(torch.tensor(rate).log().item() - peak)

    found = runs.climb(score, 0.03, most=20)
    assert len(asked) == len(set(asked))
    assert score(found) >= -1.3  # e to that is what lies between two rates, and rounding


def row(method, numbers, test, seed=0, backbone="cifar10_vit"):
    counts = {"coefficients": numbers, "norms": 0, "adapter": 0, "head": 10}
    rest = {"rate": 0.1, "head_rate": 0.1, "validation": test, "bytes": 9, "seconds": 1, "mb": 1, "epochs": 1}
    rest |= {"cpu": "AVX2", "precision": "float32"}
    return {"backbone": backbone, "task": "t", "method": method, "seed": seed, "test": test} | counts | rest


def test_results_go_on_where_they_stopped(tmp_path):
    def table():
        return Table(tmp_path / "results.csv", runs.KEY, runs.COLUMNS)

    for seed in (0, 1, 0):
        measured = row("RECAST 1", 64, 0.5, seed)
        table().add(*(measured.pop(name) for name in runs.KEY), **measured)
    found = table().rows()
    assert list(found) == [("cifar10_vit", "t", "RECAST 1", "0"), ("cifar10_vit", "t", "RECAST 1", "1")]
    assert ("cifar10_vit", "t", "RECAST 1", 1.0) in table()
    (point,) = view.points(found.values())["cifar10_vit", "t"]
    assert (point.numbers, point.test, point.spread) == (64, 50, 0)


def test_targets_say_by_how_much_they_are_met_or_missed(capsys):
    rows = [row("linear probe", 0, 0.6), row("RECAST 1", 64, 0.64), row("norm tuning", 700, 0.7)]
    rows += [
        row("LoRA r=1", 3000, 0.8),
        row("RECAST 1 random 32", 600, 0.66),
        row("RECAST 16", 700, 0.75),
        row("MeLo", 900, 0.5),
        row("MeLo + RECAST", 950, 0.6),
        row("linear probe from ridge", 0, 0.65),
        row("RECAST 1 from ridge", 64, 0.71),
    ]
    view.targets([{key: str(value) for key, value in each.items()} for each in rows])
    said = capsys.readouterr().out
    assert "resolution 1 over the probe by 5: MISSED by 1.0 (64.0 with 64 parameters, and 60.0)" in said
    assert "resolution 1 random 32 over the probe by 5: met by 1.0 (66.0 with 600 parameters, and 60.0)" in said
    assert "front: MISSED by 5.0 (least at 3000 parameters: RECAST 16 75.0, LoRA r=1 80.0; on or above at 5" in said
    assert "front, whatever the start: MISSED by 5.0 (least at 3000 parameters: RECAST 16 75.0" in said
    assert "resolution 1 from ridge over the probe by 5: met by 1.0 (71.0 with 64 parameters, and 65.0)" in said
    assert "quarter of its parameters: MISSED by 5.0 (RECAST 16 (700) 75.0, LoRA (3000) 80.0)" in said
    assert "MeLo better with coefficients: +10.0 points on average" in said


def test_the_picture_is_the_same_twice_and_small(tmp_path):
    named = [name for name, method in METHODS.items() if not method.start or name.startswith("RECAST 1 from")]
    rows = [row(name, 100 * index, 0.5 + 0.01 * index) for index, name in enumerate(named)]
    for name in "ab":
        (tmp_path / name).mkdir()
        view.picture(rows, tmp_path / name)
    first, second = (tmp_path / name / "adaptation_cifar10_vit.svg" for name in "ab")
    assert first.read_bytes() == second.read_bytes() and first.stat().st_size < 100_000
