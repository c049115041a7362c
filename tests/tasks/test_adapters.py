"""A recipe's adapter is trained with coefficients or without, kept in the task file, and read back exactly."""

import pytest

from recast_gen.bank import taskfile
from recast_gen.errors import AttachError, RecipeError
from recast_gen.recipe import reading
from recast_gen.recipe.images import Data, Task
from recast_gen.recipe.training import Train
from recast_gen.tasks.sequence import adapt


def run(bank, tmp_path, **train):
    data = [Data(source="digits", rotate=turn, classes=[0, 1, 2]) for turn in (0, 90)]
    tasks = [Task(name=f"t{each.rotate}", data=each) for each in data]
    settings = Train(epochs=1, batch_size=512, seeds=[0], head_start="random", **train)
    results = adapt(bank, tasks, settings, 0, tmp_path, "pico", tmp_path / "runs", lambda line: None)
    return results, taskfile.read(tmp_path / "t0.safetensors", bank)


@pytest.mark.parametrize(
    ("name", "options", "numbers", "coefficients"),
    [
        ("melo", {"rank": 1}, 4 * 4 * 16, True),
        ("adaptformer", {"bottleneck": 2}, 4 * (4 * 16 + 2 + 16), False),
        ("codyra", {"rank": 2, "sparsity": 0.0}, 2 * 4 * (16 + 48 + 1 + 16 + 16 + 1 + 2 * (16 + 64 + 1)), True),
        ("piggyback", {"threshold": 0.004}, 4 * 4 * 16 + 4 * (4 + 8) * 16 * 16, True),
    ],
)
def test_an_adapter_of_a_recipe_is_trained_and_stored(bank, tmp_path, name, options, numbers, coefficients):
    results, task = run(bank, tmp_path, adapter=name, adapter_options=options, coefficients=coefficients)
    method = f"{name}_and_coefficients" if coefficients else name
    probe, trained = (next(row for row in results.runs if row["method"] == m) for m in ("linear_probe", method))
    assert (probe["adapter"], probe["coefficients"]) == (0, 0)
    assert trained["adapter"] == numbers
    base = {layer: coefficient for group in bank.groups.values() for layer, coefficient in group}
    moved = [layer for layer, coefficient in base.items() if (task.coefficients[layer] != coefficient).any()]
    assert len(moved) == (len(base) if coefficients else 0) and bool(trained["coefficients"]) == coefficients
    assert task.about["adapter"]["name"] == name and task.about["adapter"]["options"].items() >= options.items()
    assert all(row.get("same_logits", True) for row in results.matrix)  # nothing is forgotten
    first = {row["of"]: row["test"] for row in results.matrix if row["of"] == row["after"]}
    assert all(row["test"] == first[row["of"]] for row in results.matrix)
    assert [row["test"] for row in results.runs if row["method"] == method] == list(first.values())


def test_an_adapter_without_a_place_in_the_backbone_is_refused(bank, tmp_path):
    with pytest.raises(AttachError, match=r"'clr' finds nothing to act on.*piggyback, melo, adaptformer"):
        run(bank, tmp_path, adapter="clr")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("{adapter: mello}", r"train\.adapter: .*'melo'"),
        ("{coefficients: false}", "nothing to train but the head"),
        ("{adapter_lr: 0.1}", "need an `adapter`"),
        ("{adapter: melo, adapter_options: {rank: many}}", r"train\.adapter_options\.rank"),
    ],
)
def test_a_recipe_that_asks_for_what_cannot_be_is_refused(tmp_path, lines, message):
    path = tmp_path / "r.yaml"
    path.write_text(f"model: {{name: test_vit}}\ntasks: [{{name: a, data: {{source: digits}}}}]\ntrain: {lines}\n")
    with pytest.raises(RecipeError, match=message):
        reading.load(path)
