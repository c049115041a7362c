"""The report's page and pictures: explained, labelled, by day and by night, the same bytes twice."""

import re

import numpy as np
import pytest

from recast_gen.pipelines import page, pictures, report_incremental, study_pictures, task_pictures
from recast_gen.pipelines.page import COLOURS, Section

CURVES = {"linear probe": [[(0, 80.0), (1, 82.0)]], "coefficients": [[(0, 80.0), (1, 85.0)]]}
TRIALS = [
    {"generator": "mimic", "groups": str(count), "resolution": "1", "relative_error": f"0.{count}", "feasible": "True"}
    for count in (1, 2, 3)
]
DRAWN = {
    "gains": lambda: task_pictures.gains(
        "a <b>", {"one": [1.0, 2.0, 3.0], "two": [-0.5, 0.5, 0.0], "three": [1.0] * 3}
    ),
    "learning": lambda: task_pictures.learning("a <b>", "one", CURVES),
    "confusion": lambda: task_pictures.confusion("a <b>", "one", ["x", "y"], np.array([[3, 1], [0, 4]])),
    "sizes": lambda: task_pictures.sizes("a <b>", {"one": (1960, 400), "a task of a very long name indeed": (10, 4)}),
    "cosine": lambda: pictures.cosine("a <b>", "qkv", {"mimic": [1.0, 1.0], "mimic_vae": [0.5, 0.6]}),
    "spectrum": lambda: pictures.spectrum("a <b>", "qkv", [{"singular_values": [2.0, 1.0], "templates": 2}]),
    "parameters": lambda: pictures.parameters("a <b>", {"templates": 1000, "head of a task": 10}),
    "histogram": lambda: pictures.histogram("a <b>", "qkv", np.linspace(-1, 1, 50), np.linspace(-1, 1, 50)),
    "accuracies": lambda: report_incremental.accuracies("a <b>", {"ridge": [(2, 90.0), (4, 80.0)]}),
    "slices": lambda: study_pictures.slices(TRIALS, "relative_error")[0].replace(
        "relative_error of every", "a &lt;b&gt;"
    ),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_has_a_label_the_pages_colours_and_the_same_bytes_twice(name):
    made = DRAWN[name]()
    head = re.match(r"<svg [^>]*>", made).group()
    assert 'role="img"' in head and 'aria-label="a &lt;b&gt;' in head and "width=" not in head and "viewBox=" in head
    assert not any(day in made for day, _ in COLOURS.values()) and "var(--" in made
    assert not re.search(r"(fill|stroke): #(?!none)", made)  # a colour that would not change at night
    assert made == DRAWN[name]()


def test_no_seed_hides_another_and_the_axis_is_around_the_data():
    made = task_pictures.gains("gains", {"one": [40.0, 40.0, 40.0], "two": [41.0, 42.0, 43.0]})
    dots = set(re.findall(r'<use xlink:href="#\w+" x="([\d.]+)" y="([\d.]+)"', made))
    assert len(dots) >= 6 + 2  # of three equal seeds, each has a place of its own


def test_a_curve_of_every_head_is_in_the_picture_and_looks_like_no_other():
    names = [f"head {number}, first session" for number in range(24)]
    made = report_incremental.accuracies("heads", {name: [(2, 90.0), (4, 80.0)] for name in names})
    assert all(name in made for name in names)
    height = float(re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', made).group(1))
    assert height > 24 * 12  # points: a line of the legend each
    assert len(set(report_incremental.LOOKS)) > 4 * 12  # heads, alone and in three ways


def test_long_names_keep_both_ends():
    names = [f"a class of the kind {number}" for number in range(30)]
    assert len({task_pictures.short(name, 15) for name in names}) == 30
    assert all(len(task_pictures.short(name, 15)) <= 15 for name in names)


def test_a_page_escapes_explains_each_word_once_and_fits_narrow_screens():
    body = page.table([["<one>", "3"]], ["task", "bytes & all"]) + page.facts({"bank": "x & y"})
    text = page.page("a <title>", "The head, the Head: a linear probe.", "", [Section("One", "No head here", body)])
    assert "<title>a &lt;title&gt;</title>" in text and "&lt;one&gt;" in text and "x &amp; y" in text
    verdict = re.search(r"<p class=verdict>(.*?)</p>", text).group(1)
    assert verdict.count("<abbr") == 2 and 'title="the last layer' in verdict
    assert (
        "prefers-color-scheme:dark" in text and "width=device-width" in text and "data-name='bytes &amp; all'" in text
    )
    assert not any(outside in text for outside in ("<script", "<link", "src=", "http:"))
