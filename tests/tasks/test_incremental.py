"""Classes one after the other: the order of steps, what is measured after each, and what is refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recast_gen.errors import DataError, RecipeError, TaskError
from recast_gen.recipe.images import Data, Task
from recast_gen.recipe.incremental import HEADS as NAMES
from recast_gen.recipe.incremental import Blurry, Incremental
from recast_gen.recipe.training import Train
from recast_gen.tasks.classes import Features, Source
from recast_gen.tasks.heads import HEADS
from recast_gen.tasks.incremental import check_heads, plan, run, summary

CLASSES = list("abcdef")


def known(seed: int = 0, n: int = 180, apart: float = 4.0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    parts = {}
    for part, count in (("train", n), ("validation", 60), ("test", 120)):
        labels = torch.arange(count) % 6
        parts[part] = torch.randn(count, 8, generator=generator) + apart * torch.eye(6, 8)[labels], labels
    return Features(parts, CLASSES, [[0, 1, 2], [3, 4], [5]])


@given(
    size=st.integers(1, 3), number=st.integers(0, 3), shots=st.sampled_from([None, 2]),
    blurry=st.sampled_from([None, Blurry(classes=1.0, images=0.3)]),
)  # fmt: skip
def test_every_class_has_one_step_and_every_image_comes_once(size, number, shots, blurry):
    found, settings = known(), Incremental(classes_per_step=size, shots=shots, blurry=blurry)
    steps, labels = plan(found, settings, number, 7), found.parts["train"][1]
    assert sorted(label for unit, _ in steps for label in unit) == list(range(6))
    assert all(len(unit) == size for unit, _ in steps)
    rows = torch.cat([rows for _, rows in steps])
    assert len(rows.unique()) == len(rows) and (shots or len(rows) == len(labels))
    strangers = [int((~torch.isin(labels[rows], torch.tensor(unit))).sum()) for unit, rows in steps]
    assert any(strangers) == bool(blurry)
    for _, rows in steps[1:] if shots else ():
        assert labels[rows].bincount().max() <= 2
    again = plan(found, settings, number, 7)
    assert all(one[0] == other[0] and torch.equal(one[1], other[1]) for one, other in zip(steps, again))


def test_orders_differ_and_a_step_without_a_count_is_a_task():
    orders = [[unit for unit, _ in plan(known(), Incremental(classes_per_step=1), number, 0)] for number in range(3)]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    tasks = [[unit for unit, _ in plan(known(), Incremental(), number, 0)] for number in range(4)]
    assert tasks[0] == [[0, 1, 2], [3, 4], [5]] and all(sorted(each) == tasks[0] for each in tasks)
    own = Incremental(classes_per_step=4, class_orders=[list("fabcde")])
    assert [unit for unit, _ in plan(known(), own, 0, 0)] == [[5, 0, 1, 2], [3, 4]]


KINDS = {"a": "vowel", "e": "vowel", **dict.fromkeys("bcd", "stop"), "vowel": "letter", "stop": "letter"}  # f is alone


@given(size=st.integers(1, 2), number=st.integers(0, 3))
def test_under_a_hierarchy_each_level_has_its_own_images_and_the_same_order_of_steps(size, number):
    found = known()
    steps = plan(found, Incremental(classes_per_step=size, hierarchy=KINDS), number, 7)
    count, labels = len(steps) // 3, found.parts["train"][1]
    assert count == 3 - size and [unit for unit, _ in steps] == 3 * [unit for unit, _ in steps[:count]]
    assert {frozenset(unit) for unit, _ in steps} == (
        {frozenset(range(5)), frozenset([5])} if size == 1 else {frozenset(range(6))}
    )
    rows = torch.cat([rows for _, rows in steps])
    assert len(rows.unique()) == len(rows) == len(labels)
    for unit, rows in steps:
        assert labels[rows].bincount(minlength=6).tolist() == [10 * (label in unit) for label in range(6)]


@pytest.mark.parametrize("name", ["means", "ridge", "frozen"])
def test_under_a_hierarchy_a_head_is_asked_for_the_names_of_that_time(name):
    how = {"hierarchy": KINDS, "class_orders": [["letter", "f"]], "classes_per_step": 1}
    found, settings = known(), Incremental(heads=[name], **how)
    rows, _ = run(found, settings, 0, lambda line: None)
    assert [row["learnt"] for row in rows[::2]] == ["letter", "vowel; stop", "a; b; c; d; e"]
    assert [row["classes"] for row in rows] == [1, 2, 3, 3, 6, 6]
    assert rows[0]["accuracy"] == 1.0  # there is one answer
    if HEADS[name].exact:
        assert all(row["accuracy"] > 0.9 and row["forgetting"] < 0.1 for row in rows)


def test_a_hierarchys_rows_are_those_of_a_literal_count():
    found, settings = known(apart=1.0), Incremental(heads=["means"], orders=1, classes_per_step=2, hierarchy=KINDS)
    rows, _ = run(found, settings, 0, lambda line: None)
    (features, labels), (test, wanted) = found.parts["train"], found.parts["test"]
    called = [["letter"] * 5 + ["f"], ["vowel", "stop", "stop", "stop", "vowel", "f"], CLASSES]
    above = {one: [names[label] for names in called] for label, one in enumerate(CLASSES)}
    above |= {"letter": ["letter"] * 3, "vowel": ["letter", "vowel", "vowel"], "stop": ["letter", "stop", "stop"]}
    table, held = [], {}  # after each level, how many are right by the names of each level so far
    for step, (_, chosen) in enumerate(plan(found, settings, 0, 0)):
        held = {"f": held["f"]} if held else held
        for row in chosen.tolist():
            held.setdefault(called[step][labels[row]], []).append(features[row])
        centres = {name: torch.stack(own).double().mean(0) for name, own in held.items()}
        said = [min(centres, key=lambda name: float((centres[name] - image.double()).norm())) for image in test]
        right = [[above[one][level] == called[level][label] for one, label in zip(said, wanted)] for level in (0, 1, 2)]
        table.append([sum(each) / len(said) for each in right])
    assert [row["accuracy"] for row in rows] == pytest.approx([table[level][level] for level in (0, 1, 2)])
    lost = [max(table[0][0], table[1][0]) - table[2][0], table[1][1] - table[2][1]]
    assert rows[-1]["forgetting"] == pytest.approx(sum(lost) / 2)


def test_a_first_session_under_a_hierarchy_knows_no_finer_names():
    class Learns:
        def learn(self, seen, rows, epochs, file):
            assert {seen.classes[label] for label in seen.parts["train"][1][rows].tolist()} == {"letter"}
            assert {seen.classes[label] for label in seen.parts["validation"][1].tolist()} == {"letter", "f"}
            return 7

        def features(self, stages, task):
            return known()

    how = {"hierarchy": KINDS, "class_orders": [["letter", "f"]], "classes_per_step": 1, "first_session": True}
    rows, _ = run(known(), Incremental(heads=["ridge"], **how), 0, lambda line: None, Learns())
    assert rows[11]["head"] == "ridge, first session" and rows[11]["bytes"] == rows[5]["bytes"] + 7


def test_hierarchies_that_cannot_be_are_refused():
    for wrong, says in (
        ({"hierarchy": {"a": "x"}, "classes_per_step": None}, "need `classes_per_step`"),
        ({"hierarchy": {"a": "a"}}, "circle: a < a"),
        ({"hierarchy": {"a": "x", "x": "y", "y": "x"}}, "circle: a < x < y < x"),
        ({"hierarchy": {"a": "x"}, "blurry": Blurry()}, "do not go together"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            Incremental(**{"classes_per_step": 2} | wrong)
    for wrong, says in (
        ({"hierarchy": {"a": "x", "g": "x"}}, "has g, no class"), ({"hierarchy": {"a": "b"}}, "b is a class"),
        ({"hierarchy": {"a": "x"}, "class_orders": [CLASSES]}, "misses x; has unknown a"),
    ):  # fmt: skip
        with pytest.raises(RecipeError, match=says):
            plan(known(), Incremental(classes_per_step=2, **wrong), 0, 0)
    with pytest.raises(DataError, match="Class a has 2 training images for 3 levels"):
        plan(known(n=12), Incremental(classes_per_step=2, hierarchy=KINDS), 0, 0)


def test_exact_heads_end_alike_in_all_orders_and_with_blurry_borders():
    settings = Incremental(heads=["means", "ridge"], options={"ridge": {"strength": 0.01}}, classes_per_step=2)
    ends = []
    for blurry in (None, Blurry(classes=1.0, images=0.5)):
        rows, _ = run(known(apart=1.0), settings.model_copy(update={"blurry": blurry}), 3, say=lambda _: None)
        ends += [(row["head"], row["accuracy"]) for row in rows if row["step"] == 3]
    assert len(ends) == 12 and len(set(ends)) == 2


def test_rows_say_what_a_literal_count_says():
    found = known(apart=1.5)
    rows, costs = run(found, Incremental(heads=["l2_to_start"], classes_per_step=2, orders=1), 0, say=lambda _: None)
    steps, test = plan(found, Incremental(classes_per_step=2), 0, 0), found.parts["test"]
    head, table = HEADS["l2_to_start"](8, 0), []
    for number, (_, chosen) in enumerate(steps):
        labels = found.parts["train"][1][chosen]
        held = torch.isin(found.parts["validation"][1], labels)
        head.fit(found.parts["train"][0][chosen], labels, tuple(each[held] for each in found.parts["validation"]))
        right = [(head.predict(test[0][test[1] == label]) == label).float().mean() for label in range(6)]
        table.append([float(torch.stack([right[label] for label in unit]).mean()) for unit, _ in steps])
        assert rows[number]["accuracy"] == pytest.approx(sum(table[-1][: number + 1]) / (number + 1), abs=1e-6)
        assert rows[number]["classes"] == 2 * number + 2 and rows[number]["bytes"] == head.nbytes
        best = [max(row[earlier] for row in table[earlier:number]) for earlier in range(number)]
        lost = [high - table[-1][earlier] for earlier, high in enumerate(best)]
        assert rows[number]["forgetting"] == pytest.approx(sum(lost) / number if number else 0, abs=1e-6)
    assert rows[-1]["average"] == pytest.approx(sum(row["accuracy"] for row in rows) / 3)
    assert rows[-1]["forgetting"] > 0.3  # it has no way to remember
    assert [cost["processor_seconds"] > 0 for cost in costs] == [True] * 3
    assert summary(rows)["l2_to_start"]["final"] == rows[-1]["accuracy"]


@pytest.mark.parametrize("most", [1000, 3000, 20000])
def test_at_equal_bytes_random_ridge_is_as_wide_as_fits_and_what_keeps_more_is_left_out(most):
    found, said = known(), []
    settings = Incremental(heads=["means", "random_ridge", "statistics"], classes_per_step=2, orders=1, max_bytes=most)
    rows, _ = run(found, settings, 0, said.append)
    ends = {row["head"]: row["bytes"] for row in rows}
    width = HEADS["random_ridge"].within(6, most)
    wider = HEADS["random_ridge"](8, width=width + 1).fit(*found.parts["train"]).nbytes
    assert ends["random_ridge"] <= most < wider
    assert ends["random_ridge"] == HEADS["random_ridge"](8, width=width).fit(*found.parts["train"]).nbytes
    alone = HEADS["statistics"](8).fit(*found.parts["train"]).nbytes
    assert ("statistics" in ends) == (alone <= most) != any("statistics: left out" in line for line in said)


def test_bytes_that_no_head_keeps_are_refused():
    settings = Incremental(heads=["means", "random_ridge"], classes_per_step=2, orders=1, max_bytes=50)
    with pytest.raises(RecipeError, match="every head keeps more"):
        run(known(), settings, 0, lambda line: None)


def test_recipes_know_all_heads_and_refuse_what_cannot_be():
    assert set(NAMES) == HEADS.keys()
    for wrong, says in (
        ({"heads": ["ridge", "ridge"]}, "a head twice"), ({"heads": ["rigde"]}, "'ridge'"),
        ({"options": {"means": {}}, "heads": ["ridge"]}, "does not list: means"),
        ({"data": Data(source="digits")}, "need `classes_per_step`"),
        ({"class_orders": [[1, 1, 2]], "classes_per_step": 1}, "comes back: 1"),
        ({"first_session": True, "classes_per_step": 1}, "`first_session` trains on the classes of a step: give two"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=says):
            Incremental(**wrong)
    for order, says in ((list("abcde"), "misses f"), ([*CLASSES, "g"], "has unknown g")):
        with pytest.raises(RecipeError, match=says):
            plan(known(), Incremental(class_orders=[order], classes_per_step=2), 0, 0)
    with pytest.raises(DataError, match="one step alone"):
        plan(known(), Incremental(classes_per_step=6), 0, 0)
    with pytest.raises(TaskError, match="Did you mean 'width'"):
        check_heads(Incremental(heads=["random_ridge"], options={"random_ridge": {"wide": 3}}))


def test_features_are_what_the_backbones_head_sees_of_all_tasks(bank):
    tasks = [
        Task(name="low", data=Data(source="digits", classes=[0, 1, 2])),
        Task(name="odd", data=Data(source="digits", classes={"even": [0, 2], "odd": [1, 3]}, negative=True)),
    ]
    found = Source(bank, tasks, Train(batch_size=64), 0).features()
    assert found.classes == ["low: 0", "low: 1", "low: 2", "odd: even", "odd: odd"]
    assert found.tasks == [[0, 1, 2], [3, 4]] and found.parts["train"][0].shape[1] == 16
    rows, _ = run(found, Incremental(heads=["ridge"], orders=1), 0, say=lambda _: None)
    assert [row["learnt"] for row in rows] == ["low: 0; low: 1; low: 2", "odd: even; odd: odd"]
    assert rows[0]["accuracy"] > 0.5
