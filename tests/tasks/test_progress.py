"""The line before a run."""

from recast_gen.tasks.progress import Progress


def test_a_run_says_its_place_and_the_time_left_by_those_that_were_not_there_already():
    said, now = [], [0.0]
    progress = Progress(6, said.append, lambda: now[0])
    for seconds in (0.1, 60.0, 20.0, 20.0):
        with progress.run("clothing", "coefficients", 42):
            now[0] += seconds
    assert said == [
        "run 1/6, clothing, coefficients, seed 42",
        "run 2/6, clothing, coefficients, seed 42",
        "run 3/6, clothing, coefficients, seed 42, 4 min left",
        "run 4/6, clothing, coefficients, seed 42, 2 min left",
    ]
