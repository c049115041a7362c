"""A wrong recipe is refused with everything that is wrong with it."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from recast_gen.errors import RecipeError
from recast_gen.recipe.reading import Recipe, load

RECIPES = sorted((Path(__file__).parents[2] / "pipelines").glob("*.yaml"))


def write(folder: Path, change) -> Path:
    content = YAML(typ="safe").load(next(path for path in RECIPES if path.stem == "digits"))
    change(content)
    YAML().dump(content, folder / "recipe.yaml")
    return folder / "recipe.yaml"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads(path):
    assert isinstance(load(path), Recipe)


@pytest.mark.parametrize("groups", [0, True, 1.0, [], [0, 1], [[]], [[0], [-1]], [["0"]]])
def test_groups_are_a_count_or_lists_of_positions(tmp_path, groups):
    for good in (None, 2, [[0, 2], [1]]):
        assert (
            load(write(tmp_path, lambda content, good=good: content["mimic"].update(groups=good))).mimic.groups == good
        )
    with pytest.raises(RecipeError, match="mimic.groups: expected a count of 1 or more, or lists"):
        load(write(tmp_path, lambda content: content["mimic"].update(groups=groups)))


def test_similarity_needs_a_count_of_groups(tmp_path):
    with pytest.raises(RecipeError, match="needs `groups`"):
        load(write(tmp_path, lambda content: content["mimic"].update(groups=[[0], [1]], group_by="similarity")))


def test_all_mistakes_are_listed_at_once_with_the_nearest_key(tmp_path):
    def change(content):
        content["train"]["epoch"] = 3
        content["mimic"]["groups"] = "three"
        content["tasks"][0]["data"]["rotate"] = 45
        content["model"]["pretrain"]["lr"] = -1.0
        content["tun"] = {}

    with pytest.raises(RecipeError) as caught:
        load(write(tmp_path, change))
    message = str(caught.value)
    assert "5 mistake(s)" in message
    assert "train.epoch: unknown key. Did you mean 'epochs'?" in message
    assert "tun: unknown key. Did you mean 'tune'?" in message
    for place in ("mimic.groups", "tasks.0.data.rotate", "model.pretrain.lr"):
        assert place in message


def test_a_name_from_a_list_is_suggested_and_kinds_are_plain_words(tmp_path):
    def change(content):
        content["train"] |= {"optimizer": "Adam", "adapter": "mello", "lr": float("inf"), "seeds": 42}
        content["incremental"] = {"heads": ["ridg"], "first_session": "yes"}
        content["mimic"] = None
        content["tasks"][0] |= {"name": "my task", "img_size": "big"}

    with pytest.raises(RecipeError) as caught:
        load(write(tmp_path, change))
    for line in (
        "train.optimizer: expected 'adamw', 'adam', 'sgd' or 'lamb'. Did you mean 'adam'? (found 'Adam')",
        "train.lr: Input should be a finite number (found inf)",
        "train.seeds: expected a list, as [1, 2] (found 42)",
        "incremental.first_session: expected true or false; or expected a whole number (found 'yes')",
        "mimic: expected keys with values; leave it out where it has none",
        "tasks.0.name: expected letters a to z, digits, _ and - alone (found 'my task')",
        "tasks.0.img_size: expected a whole number; or expected a list, as [1, 2] (found 'big')",
    ):
        assert f"\n  {line}\n" in f"{caught.value}\n"
    assert "Did you mean 'melo'?" in str(caught.value) and "Did you mean 'ridge'?" in str(caught.value)
    lost = {"heads": ["random_ridge"], "options": {"randm_ridge": {"width": 8}}}
    with pytest.raises(RecipeError, match="does not list: randm_ridge. Did you mean 'random_ridge'?"):
        load(write(tmp_path, lambda content: content.update(incremental=lost)))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.sampled_from(["model", "mimic", "mimic_vae", "tune", "train"]), st.text("abcdefgh_", min_size=12))
def test_an_unknown_key_is_named_wherever_it_stands(tmp_path_factory, section, key):
    with pytest.raises(RecipeError, match=f"{section}.{key}: unknown key"):
        load(write(tmp_path_factory.mktemp("recipe"), lambda content: content[section].update({key: 1})))


@pytest.mark.parametrize("resolution", [4, "head", {"*.attn.qkv": "head", "*.mlp.fc1": 8}])
def test_a_resolution_is_a_count_a_word_or_one_of_them_for_each_glob(tmp_path, resolution):
    path = write(tmp_path, lambda content: content["train"].update(resolution=resolution))
    assert load(path).train.resolution == resolution


@pytest.mark.parametrize("resolution", [0, "heads", True, 1.5, {}, {"*.qkv": 0}])
def test_another_resolution_is_refused(tmp_path, resolution):
    with pytest.raises(RecipeError, match=r"train\.resolution: expected a count of 1 or more, 'head', 'channel'"):
        load(write(tmp_path, lambda content: content["train"].update(resolution=resolution)))


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"extend": {"templates": 0}}, r"tune\.extend\.templates"),
        ({"extend": {"templates": 1, "source": "tasks"}}, "source 'tasks' and a list of `tasks` go together"),
        ({"extend": {"templates": 1, "count": 2}}, r"tune\.extend\.count: unknown key"),
        ({"extend": {"templates": 4, "source": "singular"}}, "'singular' has a number of `rank`, and none of `temp"),
        ({"extend": {"rank": 2, "source": "fourier"}}, "'fourier' has a number of `templates`, and none of `rank`"),
        ({"extend": {"rank": 2, "templates": 4, "source": "singular"}}, "'singular' has a number of `rank`"),
        ({"norms": "affin"}, r"tune\.norms"),
    ],
)
def test_templates_and_norms_that_cannot_be_are_refused(tmp_path, tune, message):
    with pytest.raises(RecipeError, match=message):
        load(write(tmp_path, lambda content: content["tune"].update(tune)))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"head_bits": 5}, r"train\.head_bits"),
        ({"head_bits": "few"}, r"train\.head_bits"),
        ({"coefficient_bits": 2}, r"train\.coefficient_bits"),
        ({"tie": "layer"}, r"train\.tie"),
        ({"tie": 0}, r"train\.tie"),
        ({"tolerance": -1}, r"train\.tolerance"),
        ({"max_bytes": 0}, r"train\.max_bytes"),
    ],
)
def test_bits_ties_and_budgets_that_are_not_offered_are_refused(tmp_path, train, message):
    with pytest.raises(RecipeError, match=message):
        load(write(tmp_path, lambda content: content["train"].update(train)))


def test_a_task_name_used_twice_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="used twice: odd_or_even_turned"):
        load(write(tmp_path, lambda content: content["tasks"].append(content["tasks"][1])))
    name = {"name": "ODD_or_even_turned"}
    with pytest.raises(RecipeError, match="not in case alone; used twice: odd_or_even_turned"):
        load(write(tmp_path, lambda content: content["tasks"].append(content["tasks"][1] | name)))


@pytest.mark.parametrize("name", ["bank", "router"])
def test_a_task_has_no_name_of_what_lies_beside_tasks(tmp_path, name):
    with pytest.raises(RecipeError, match=f"tasks.0.name: a folder of tasks has a file '{name}'"):
        load(write(tmp_path, lambda content: content["tasks"][0].update(name=name)))


def test_a_seed_listed_twice_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="`seeds` lists a seed twice: 42"):
        load(write(tmp_path, lambda content: content["train"].update(seeds=[42, 1, 42])))


def test_a_missing_recipe_names_the_nearest(tmp_path):
    write(tmp_path, lambda content: None)
    with pytest.raises(RecipeError, match=r"Did you mean '.*recipe.yaml'"):
        load(tmp_path / "recipee.yaml")


def test_a_file_that_is_not_yaml_is_refused(tmp_path):
    (tmp_path / "recipe.yaml").write_text("model: [")
    with pytest.raises(RecipeError, match="is not YAML"):
        load(tmp_path / "recipe.yaml")
    for text, says in (
        ("seed: 1\nmodel: {}\nseed: 2\n", r'recipe.yaml, line 3: found duplicate key "seed": give it once\.$'),
        ("model:\n\tname: x\n", "spaces in place of the tab"),
        ("", "holds nothing; expected sections"),
    ):
        (tmp_path / "recipe.yaml").write_text(text)
        with pytest.raises(RecipeError, match=says):
            load(tmp_path / "recipe.yaml")
    with pytest.raises(RecipeError, match="is a folder; expected a recipe"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layout": "row", "budget": 1.5}, "mimic.budget"),
        ({"templates": 2, "budget": 0.5}, "give `templates` or `budget`, not both"),
        ({"layout": "row", "solver": "direct"}, "leave out solver"),
        ({"layout": "tile", "axes": {"p": 0}}, "mimic.axes.p"),
    ],
)
def test_a_compression_that_cannot_be_is_refused(tmp_path, settings, words):
    with pytest.raises(RecipeError, match=words):
        load(write(tmp_path, lambda content: content["mimic"].update(settings)))


def test_a_compressed_bank_is_not_chosen_for_tasks_and_whitening_needs_images(tmp_path):
    def change(content):
        content["mimic"] = {"layout": "auto", "budget": 0.5, "whiten": True}
        content["tune"] = {"choose": "mimic"}

    with pytest.raises(RecipeError, match="tasks train on whole layers"):
        load(write(tmp_path, change))

    def without_images(content):
        content["mimic"] = {"layout": "auto", "budget": 0.5, "whiten": True}
        del content["model"]["pretrain"]

    with pytest.raises(RecipeError, match="`mimic.whiten` needs images"):
        load(write(tmp_path, without_images))
