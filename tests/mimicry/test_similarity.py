"""Layers that are alike are found wherever they are, and share a group."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import recast_gen as rg
from recast_gen.errors import FitError
from recast_gen.mimicry.similarity import alike

CLUSTERS = st.lists(st.integers(0, 3), min_size=4, max_size=10).filter(lambda own: len(set(own)) > 1)


def planted(own: list[int], seed: int, noise: float = 0.1) -> np.ndarray:
    """Layers ``l 6 8`` near one of four directions each, of any sign and scale."""
    rng = np.random.default_rng(seed)
    centres, scale = rng.standard_normal((4, 48)), rng.choice([-1, 1], len(own)) * 10 ** rng.uniform(-2, 2, len(own))
    layers = scale[:, None] * (centres[own] + noise * rng.standard_normal((len(own), 48)))
    return layers.reshape(-1, 6, 8).astype(np.float32)


@given(CLUSTERS, st.integers(0, 2**16))
def test_planted_clusters_are_found_whatever_the_sign_and_scale_of_their_layers(own, seed):
    expected = [[place for place, other in enumerate(own) if other == label] for label in dict.fromkeys(own)]
    assert alike(planted(own, seed), len(expected)) == expected


@given(st.integers(1, 8), st.data())
def test_every_layer_is_in_one_group_also_where_layers_are_zero_or_twice(layers, data):
    stack = planted([0] * layers, 0, noise=1.0)
    for place in data.draw(st.sets(st.integers(0, layers - 1))):
        stack[place] = data.draw(st.sampled_from([0, 1])) * stack[0]
    groups = data.draw(st.integers(1, layers))
    found = alike(stack, groups)
    assert len(found) == groups and sorted(sum(found, [])) == list(range(layers))
    assert found == alike(stack, groups)


def test_a_bank_by_similarity_or_of_listed_groups_has_those_groups_and_is_exact(tmp_path):
    tensors = {f"blocks.{index}.weight": layer for index, layer in enumerate(planted([0, 1, 0, 1, 0], 0))}
    by_list, alike_ = rg.mimic(tensors, groups=[[0, 2, 4], [3, 1]]), rg.mimic(tensors, groups=2, group_by="similarity")
    for bank in (by_list, alike_, rg.mimic_vae(tensors, groups=2, group_by="similarity", templates=1, epochs=2)):
        assert [group.names for group in bank.groups.values()] == [
            tuple(f"blocks.{place}.weight" for place in places) for places in ([0, 2, 4], [1, 3])
        ]
    assert alike_.fit["group_by"] == "similarity" and by_list.fit["groups"] == [[0, 2, 4], [3, 1]]
    by_list.save(tmp_path / "bank.zarr")
    for name, tensor in rg.generate(tmp_path / "bank.zarr").items():
        np.testing.assert_allclose(tensor, tensors[name], rtol=0, atol=1e-6 * np.abs(tensors[name]).max())


def test_one_template_for_each_planted_cluster_loses_less_than_for_consecutive_layers():
    tensors = {f"blocks.{index}.weight": layer for index, layer in enumerate(planted([0, 1, 2] * 3, 0))}

    def error(**cut) -> float:
        certificates = rg.mimic(tensors, groups=3, templates=1, **cut).certificate.values()
        return max(max(group["layer_error"]) for group in certificates)

    assert error(group_by="similarity") < 0.2 < error()


@pytest.mark.parametrize("cut", [{}, {"groups": [[0], [1]]}, {"group_size": 1}])
def test_similarity_without_a_count_of_groups_and_unknown_words_are_refused(cut):
    tensors = {f"blocks.{index}.weight": layer for index, layer in enumerate(planted([0, 1], 0))}
    with pytest.raises(FitError, match="needs `groups`"):
        rg.mimic(tensors, group_by="similarity", **cut)
    with pytest.raises(FitError, match="Did you mean 'similarity'"):
        rg.mimic(tensors, group_by="similarty", **cut)
