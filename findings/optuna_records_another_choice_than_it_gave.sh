#!/usr/bin/env bash
# optuna 5.0.0: of the choices 1, 1.0 and true, the trial is given one and the study records another.
#
# The documentation recommends None, bool, int, float and str as choices. To scikit-learn `max_features=1` is one feature
# and `1.0` is all of them; to many functions `True` is a default and 1 a size. One would expect that `best_params` holds
# what the best trial ran with.
# Seen: what is given is drawn by its place, and what is recorded is found by `==`, which takes the first that is equal.
# Of [1, 1.0, True] trials get all three, and all are recorded as 1. The best setting cannot be run again from what the
# study holds, and the sampler learns of one choice alone.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check optuna==5.0.0
"$folder/venv/bin/python" -W error - <<'PY'
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)
study, given = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)), []


def objective(trial):
    given.append(trial.suggest_categorical("max_features", [1, 1.0, True]))
    return 0.0 if type(given[-1]) is float else 1.0


study.optimize(objective, n_trials=20)
of = [sorted({repr(value) for value in values}) for values in (given, [t.params["max_features"] for t in study.trials])]
best = given[study.best_trial.number]
print(f"optuna {optuna.__version__}: given {of[0]}, recorded {of[1]}; the best ran with {best!r}: {study.best_params}")
assert of == [["1", "1.0", "True"], ["1"]] and (repr(best), repr(study.best_params["max_features"])) == ("1.0", "1")
PY
