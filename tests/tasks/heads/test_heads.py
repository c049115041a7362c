"""What every head does: learns a further task without old images, in any order where it says so, and is a file."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from recast_gen.errors import DataError, StoreError, TaskError
from recast_gen.tasks.heads import HEADS, load, make

EXACT = [name for name, head in HEADS.items() if head.exact]
D, CLASSES = 12, 6


def drawn(seed: int, n: int = 150, apart: float = 5.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features ``n 12`` about a place of their class, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (n,), generator=generator)
    return torch.randn(n, D, generator=generator) + apart * torch.eye(CLASSES, D)[labels], labels


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """The options that each head needs or is small by."""
    path = tmp_path_factory.mktemp("targets") / "words.safetensors"
    save_file({"targets": torch.randn(CLASSES + 1, 8, generator=torch.Generator().manual_seed(0))}, path)
    return {"random_ridge": {"width": 40}, "language": {"targets": str(path)}}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_learns_class_after_class_and_keeps_no_image(name, options):
    features, labels = drawn(0, 400)
    head, sizes = make(name, D, 3, **options.get(name, {})), []
    for task in ([4, 1], [0, 5], [2, 3]):
        rows = torch.isin(labels, torch.tensor(task))
        head.fit(features[rows], labels[rows], held=(features[rows], labels[rows]))
        sizes.append(head.nbytes)
        assert head.classes.tolist() == sorted(head.classes.tolist()) and set(task) <= set(head.classes.tolist())
    test, right = drawn(1, 300)
    floor = {"l2_to_start": 0.3, "ewc": 0.3, "subspace": 0.3, "weight_aligning": 0.4, "key_value": 0.55}.get(name, 0.85)
    assert (head.predict(test) == right).float().mean() > floor
    more = make(name, D, 3, **options.get(name, {})).fit(torch.cat([features] * 3), torch.cat([labels] * 3))
    assert more.nbytes == sizes[-1] >= sizes[0]  # by classes, not by images


@pytest.mark.parametrize("name", EXACT)
@given(seed=st.integers(0, 99), data=st.data())
def test_an_exact_head_ends_the_same_in_any_order_and_split(name, options, seed, data):
    (features, labels), test = drawn(seed, 60, apart=1.0), drawn(seed + 1000, 20)[0]
    how = {"seed": 5, **options.get(name, {})}
    joint = make(name, D, **how).fit(features, labels)
    order = torch.tensor(data.draw(st.permutations(range(60))))
    cuts = sorted(data.draw(st.sets(st.integers(1, 59), max_size=6)))
    parts = torch.tensor_split(order, cuts)
    grown = make(name, D, **how)
    for rows in parts:
        grown.fit(features[rows], labels[rows])
    merged = make(name, D, **how)
    for rows in reversed(parts):
        merged.merge(make(name, D, **how).fit(features[rows], labels[rows]))
    for other in (grown, merged):
        assert torch.equal(joint.classes, other.classes)
        torch.testing.assert_close(other.scores(test), joint.scores(test), rtol=1e-6, atol=1e-6)
    if name == "means":  # sums of integers: not a bit differs
        assert all(torch.equal(merged.kept[key], joint.kept[key]) for key in joint.kept)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_from_its_file_predicts_the_same_and_learns_on(name, options, tmp_path):
    features, labels = drawn(0)
    early = labels < 3
    head = make(name, D, 2, **options.get(name, {})).fit(features[early], labels[early])
    size = head.save(tmp_path / "head.safetensors")
    again = load(tmp_path / "head.safetensors")
    assert type(again) is type(head) and again.nbytes == head.nbytes < size < head.nbytes + 1500
    assert torch.equal(again.scores(features), head.scores(features))
    for each in (head, again):
        each.fit(features[~early], labels[~early])
    torch.testing.assert_close(again.scores(features), head.scores(features), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", HEADS)
def test_a_class_that_comes_back_adds_what_is_new_and_a_task_may_have_one_class(name, options):
    features, labels = drawn(0)
    head = make(name, D, **options.get(name, {}))
    for label in (2, 0, 2):
        head.fit(features[labels == label], labels[labels == label])
    assert head.classes.tolist() == [0, 2] and head.scores(features).shape == (150, 2)
    assert head.scores(features).isfinite().all()


@pytest.mark.parametrize("name", HEADS)
def test_a_class_gives_way_to_finer_ones(name, options, tmp_path):
    (features, labels), (more, finer) = drawn(0), drawn(2, 300)
    head = make(name, D, **options.get(name, {})).fit(features, labels.where(labels == 5, 6))
    head.refine({6: [0, 1, 2, 3, 4], 9: [1]})
    assert head.classes.tolist() == ([*range(6)] if name in ("ridge", "random_ridge", "language") else [5])
    head.fit(more[finer < 5], finer[finer < 5])
    head.save(tmp_path / "head.safetensors")
    test, right = drawn(1, 300)
    assert head.classes.tolist() == list(range(CLASSES)) and head.scores(test).isfinite().all()
    assert torch.equal(load(tmp_path / "head.safetensors").predict(test), head.predict(test))
    if name not in ("l2_to_start", "ewc", "subspace", "weight_aligning", "key_value", "language"):  # they forget
        assert (head.predict(test) == right).float().mean() > 0.8


def test_what_is_no_task_is_refused_and_changes_nothing():
    features, labels = drawn(0)
    head = make("ridge", D).fit(features, labels)
    before = head.scores(features)
    broken = features.clone()
    broken[3, 3] = torch.nan
    for wrong, lacking in (
        ((features[:, :5], labels), "expected n 12"), ((broken, labels), "all finite"),
        ((features, labels[:7]), "an integer from 0"), ((features, labels - 4), "an integer from 0"),
        ((features[:0], labels[:0]), "one image"), ((features, labels.float()), "an integer"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=lacking):
            head.fit(*wrong)
    assert torch.equal(head.scores(features), before)
    with pytest.raises(TaskError, match="learnt no task"):
        make("means", D).predict(features)
    with pytest.raises(DataError, match="too large to be added exactly"):
        make("means", D).fit(features * 1e12, labels)


def test_a_head_or_option_that_there_is_not_is_named_with_those_there_are(tmp_path):
    with pytest.raises(TaskError, match="No head 'rigde'. Did you mean 'ridge'. There are: means, ridge, random_ridge"):
        make("rigde", D)
    with pytest.raises(TaskError, match="no option widht. Did you mean 'width'"):
        make("random_ridge", D, widht=3)
    with pytest.raises(TaskError, match="cannot be merged"):
        make("translated", D).merge(make("translated", D))
    with pytest.raises(TaskError, match="cannot take"):
        make("random_ridge", D, seed=1).merge(make("random_ridge", D, seed=2))
    with pytest.raises(TaskError, match="needs `targets`"):
        make("language", D)
    with pytest.raises(StoreError, match="no head's file"):
        save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors")
        load(tmp_path / "x.safetensors")
