#!/usr/bin/env bash
# optuna 5.0.0: Ctrl+C while a trial's result is stored is raised as UnboundLocalError.
#
# One would expect `KeyboardInterrupt`, as comes of Ctrl+C inside the objective, so that callers can stop for it.
# Seen: the interrupt is only the context of an `UnboundLocalError` about `updated_state`, which `except
# KeyboardInterrupt` does not catch and `except Exception` does. The trial stays in state RUNNING.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check optuna==5.0.0
"$folder/venv/bin/python" - <<'PY'
import optuna
from optuna.storages import InMemoryStorage


class Interrupted(InMemoryStorage):
    def set_trial_state_values(self, *given, **named):
        raise KeyboardInterrupt  # as the signal's handler does, at this moment


optuna.logging.set_verbosity(optuna.logging.ERROR)


def caught(storage, objective):
    study = optuna.create_study(storage=storage)
    try:
        study.optimize(objective, n_trials=1)
    except BaseException as error:
        return type(error).__name__, type(error.__context__).__name__, study.trials[0].state.name


def interrupted(trial):
    raise KeyboardInterrupt


inside, storing = caught(InMemoryStorage(), interrupted), caught(Interrupted(), lambda trial: 1.0)
print(f"optuna {optuna.__version__}: in the objective", *inside, "| while its result is stored", *storing)
assert inside[0] == "KeyboardInterrupt" and inside[2] == "FAIL", inside
assert storing == ("UnboundLocalError", "KeyboardInterrupt", "RUNNING"), storing
PY
