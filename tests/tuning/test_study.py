"""A study is resumed and not repeated, whatever its workers died of; what it cannot do it says."""

import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest

from recast_gen.errors import FitError
from recast_gen.tuning import storage, workers
from recast_gen.tuning import trials as trials_of_a_study
from recast_gen.tuning.plan import Plan
from recast_gen.tuning.study import study, work
from recast_gen.tuning.trials import Runner

from .small import recipe, weights

STATES = optuna.trial.TrialState
fork = multiprocessing.get_context("fork")


def silent(_: str) -> None:
    pass


def run(journal: Path, say=silent, seed: int = 0, **tune):
    return study(weights(seed=seed), recipe(**tune), f"layers {seed}", journal, say=say)


def trials(journal: Path) -> list[optuna.trial.FrozenTrial]:
    held = storage.connect(None, journal)
    (found,) = optuna.get_all_study_summaries(held)
    return optuna.load_study(study_name=found.study_name, storage=held).trials


def test_a_small_space_is_exhausted_once(tmp_path):
    said = []
    found = run(tmp_path / "j", said.append, trials=1000)
    again = run(tmp_path / "j", said.append, trials=2000)
    assert len(found.trials) == len(said) == 8 and found.trials == again.trials  # 6 layers: 5 + 2 + 1 settings
    assert found.best == again.best and found.reason == again.reason


@pytest.mark.parametrize("sampler", ["tpe", "grid", "random", "nsga2", "gp"])
def test_raising_trials_runs_only_the_missing_ones_and_none_twice(tmp_path, sampler):
    said = []
    for count in (12, 18):
        found = run(tmp_path / "j", said.append, trials=count, sampler=sampler, per_family=True)
        assert len(said) == len(found.trials) == count
    assert len({tuple(row.values())[:7] for row in found.trials}) == 18


@pytest.fixture
def beside(tmp_path):
    """A runner of three trials, the parameters of a setting, and the study as a process has it that will draw these."""
    runner = Runner(Plan(weights(), recipe(trials=3), "layers 0"), None, tmp_path / "j", silent)
    params = runner.plan.space.params(runner.plan.space.first()[0])
    sampler = optuna.samplers.PartialFixedSampler(params, optuna.samplers.RandomSampler())
    return runner, params, optuna.load_study(study_name=runner.plan.name, storage=runner.storage, sampler=sampler)


def complete(runner: Runner) -> list[dict]:
    return [trial.params for trial in runner.trials(STATES.COMPLETE)]


def test_a_setting_that_another_process_still_draws_is_not_run_twice(beside):
    runner, params, theirs = beside
    slow = theirs.ask()
    runner.found.enqueue_trial(params)
    drawn = threading.Timer(0.5, lambda: runner.plan.space.suggest(slow))
    drawn.start()
    runner.work(0)
    drawn.join()
    assert slow.params == params and params not in complete(runner)


def test_a_setting_that_another_process_took_from_the_queue_is_not_run_twice(beside):
    runner, params, theirs = beside
    theirs.enqueue_trial(params)
    theirs.ask()
    runner.found.enqueue_trial(params)
    runner.work(0)
    assert params not in complete(runner) and len(complete(runner)) == 2


def test_a_setting_that_was_queued_before_is_left_to_whoever_takes_it(beside):
    runner, params, theirs = beside
    theirs.enqueue_trial(params)
    drawn = optuna.Trial(theirs, runner.storage.create_new_trial(theirs._study_id))  # as if the queue had been empty
    with pytest.raises(trials_of_a_study._Again):
        runner._objective(drawn)
    runner.work(0)
    assert params in complete(runner)


def test_a_process_that_died_while_it_drew_is_waited_for_once(beside, monkeypatch):
    monkeypatch.setattr(trials_of_a_study, "DRAWING", 0.5)
    runner, _, theirs = beside
    theirs.ask()
    start = time.monotonic()
    runner.work(0)
    assert len(complete(runner)) == 2 and 0.5 < time.monotonic() - start < 20


def test_ctrl_c_while_a_trial_is_being_stored_loses_that_trial_alone(tmp_path, monkeypatch):
    stored, store = [], optuna.storages.JournalStorage.set_trial_state_values

    def interrupted(self, trial_id, state, values=None):
        if state == STATES.COMPLETE and (stored.append(trial_id) or len(stored) == 4):
            raise KeyboardInterrupt
        return store(self, trial_id, state, values)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.storages.JournalStorage, "set_trial_state_values", interrupted)
        assert len(run(tmp_path / "j", trials=8).trials) == 3
    assert len(run(tmp_path / "j", trials=8).trials) == 8


def test_the_same_recipe_twice_gives_the_same_table(tmp_path):
    one, two = (run(tmp_path / name, trials=20, per_family=True) for name in ("one", "two"))
    assert (one.trials, one.importances, one.curves) == (two.trials, two.importances, two.curves)
    assert one.importances and {row["objective"] for row in one.importances} == {"relative_error", "stored_parameters"}


def test_every_curve_is_bounded_by_eckart_and_young(tmp_path):
    found = run(tmp_path / "j", trials=30, per_family=True)
    least = {(r["family"], r["templates"]): r["relative_error"] for r in found.curves if r["generator"] != "mimic"}
    made = [row for row in found.curves if row["generator"] == "mimic"]
    assert made and all(row["relative_error"] >= least[row["family"], row["templates"]] - 1e-6 for row in made)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"constraints": {"relative_error": 0.5}}, {"templates": [1, 6]}])
def test_a_changed_input_starts_a_new_study_and_the_old_one_stays(tmp_path, changed):
    first = run(tmp_path / "j", trials=4)
    second = run(tmp_path / "j", **{"trials": 4} | changed)
    rows = storage.summaries(storage.connect(None, tmp_path / "j"))
    assert first.name != second.name
    assert {row["study"]: row["trials"] for row in rows} == {first.name: 4, second.name: 4}


def test_a_study_of_another_model_under_the_same_name_is_refused(tmp_path):
    name = Plan(weights(), recipe(), "layers 0").name
    held = storage.connect(None, tmp_path / "j")
    other = optuna.create_study(study_name=name, storage=held, directions=["minimize"] * 2)
    other.set_user_attr("key", "of another")
    other.set_user_attr("model", "resnet9")
    with pytest.raises(FitError, match=f"another study called {name}, of resnet9"):
        run(tmp_path / "j")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql+psycopg://me:secret@127.0.0.1:9/none", r"postgresql\+psycopg://me:\*\*\*@127.0.0.1:9/none cannot"),
        ("sqlite:////nowhere/at/all.db", "unable to open database file"),
        ("mystery://here", "cannot be used"),
    ],
)
def test_a_storage_that_cannot_be_reached_is_named_without_its_password(tmp_path, url, says):
    with pytest.raises(FitError, match=says) as caught:
        run(tmp_path / "j", storage=url)
    assert "secret" not in str(caught.value)


def test_a_damaged_journal_is_named(tmp_path):
    run(tmp_path / "j", trials=3)
    lines = (tmp_path / "j").read_bytes().splitlines(keepends=True)
    (tmp_path / "j").write_bytes(b"".join([*lines[:3], b"{torn\n", *lines[3:]]))
    with pytest.raises(FitError, match="cannot be used"):
        run(tmp_path / "j", trials=3)


def test_a_database_needs_no_journal_and_takes_up_what_died(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "BEAT", 1)
    monkeypatch.setattr(storage, "GRACE", 1)
    url = f"sqlite:///{tmp_path / 'study.db'}"
    asked = recipe(trials=4, per_family=True, storage=url)
    runner = Runner(Plan(weights(), asked, "layers 0"), url, tmp_path / "j", silent)
    runner.prepare([])
    dead = runner.found.ask()
    runner.plan.space.suggest(dead)
    runner.storage.record_heartbeat(dead._trial_id)
    time.sleep(2.1)  # heartbeats are counted in seconds
    found = run(tmp_path / "j", trials=4, per_family=True, storage=url)
    states = [trial.state for trial in runner.found.trials]
    assert len(found.trials) == 4 and states.count(STATES.FAIL) == 1 and STATES.RUNNING not in states
    assert dead.params in [trial.params for trial in runner.found.trials if trial.state == STATES.COMPLETE]
    assert not (tmp_path / "j").exists()


def test_a_database_waits_for_what_another_process_runs_and_takes_up_what_died_within_the_wait(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "BEAT", 1)
    monkeypatch.setattr(storage, "GRACE", 1)
    monkeypatch.setattr(trials_of_a_study, "GRACE", 3)
    url = f"sqlite:///{tmp_path / 'study.db'}"
    runner = Runner(Plan(weights(), recipe(trials=3, storage=url), "layers 0"), url, tmp_path / "j", silent)
    runner.prepare([])
    dead, unborn = runner.found.ask(), runner.found.ask()
    runner.plan.space.suggest(dead)
    runner.storage.record_heartbeat(dead._trial_id)  # the other died before its first sign of life
    said = []
    found = run(tmp_path / "j", said.append, trials=3, storage=url)
    assert len(found.trials) == 3 and found.missing == 0 and any("waiting for trial" in text for text in said)
    assert [trial.state for trial in runner.found.trials][unborn.number] == STATES.FAIL


def test_workers_killed_at_random_moments_lose_at_most_what_they_ran(tmp_path):
    rng, journal, complete = random.Random(0), tmp_path / "j", 0
    asked = recipe(trials=100, per_family=True, sampler="random", generators=["mimic", "mimic_vae"],
                   mimic_vae={"epochs": 1})  # fmt: skip
    for _ in range(12):
        args = (weights(), asked, "layers 0", journal, None, silent)
        workers = [fork.Process(target=work, args=args) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            time.sleep(rng.uniform(0.02, 0.3))
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()
        states = [trial.state for trial in trials(journal)]
        assert states.count(STATES.COMPLETE) >= complete
        complete = states.count(STATES.COMPLETE)
    found = study(weights(), asked, "layers 0", journal, say=silent)
    everything = trials(journal)
    done = [tuple(trial.params.items()) for trial in everything if trial.state == STATES.COMPLETE]
    assert len(done) == len(set(done)) == len(found.trials) == 100
    assert not any(trial.state == STATES.RUNNING for trial in everything)
    first = Plan(weights(), asked, "layers 0").space
    assert {tuple(first.params(setting).items()) for setting in first.first()} <= set(done)


@pytest.mark.parametrize(
    ("script", "left"),
    [
        ("interrupt()\ntime.sleep(1)\nwrite('ready')\ntold = stopped(parent)\ntime.sleep(60)", "ready"),
        ("told = stopped(parent)\ntry: interrupt()\nexcept KeyboardInterrupt: write(told())", "True"),
        ("write('deaf')\ninterrupt()\ntime.sleep(60)", "deaf"),
    ],
)
def test_a_worker_hears_ctrl_c_once_it_is_ready_and_keeps_it_and_a_deaf_one_is_killed(
    tmp_path, monkeypatch, script, left
):
    monkeypatch.setattr(workers, "PATIENCE", 5)
    known = """import os, sys, time; from pathlib import Path; from recast_gen.tuning.workers import stopped
parent = int(sys.argv[2])
def write(what): Path(sys.argv[1]).write_text(str(what))
def interrupt(): os.kill(parent, 2); time.sleep(0.5)
"""
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        workers.run_many([sys.executable, "-c", known + script, str(tmp_path / "said")], 1)
    assert time.monotonic() - start < 30 and (tmp_path / "said").read_text() == left


def test_ctrl_c_while_a_worker_starts_is_passed_on_to_it_whichever_thread_hears_it(monkeypatch):
    made, start = [], workers.subprocess.Popen

    def interrupted(*words, **how):
        made.append(start(*words, **how))
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)
        return made[-1]

    done = threading.Event()
    other = threading.Thread(target=done.wait)  # which does not block the signal
    other.start()
    monkeypatch.setattr(workers.subprocess, "Popen", interrupted)
    waits = "import signal, time; signal.pthread_sigmask(signal.SIG_UNBLOCK, {2}); time.sleep(60)"
    try:
        with pytest.raises(KeyboardInterrupt):
            workers.run_many([sys.executable, "-c", waits], 2)
    finally:
        done.set(), other.join()
    assert [process.poll() for process in made] == [-signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_a_killed_writer_left_half_written_is_cut_while_others_work(tmp_path):
    run(tmp_path / "j", trials=3)
    with (tmp_path / "j").open("ab") as file:
        file.write(b'{"op_code": 4, "torn')
    with storage.held(tmp_path / "j"):  # somebody lives
        assert len(run(tmp_path / "j", trials=6).trials) == 6


def test_a_setting_that_cannot_be_fitted_is_a_failed_trial_and_the_others_count(tmp_path):
    source = weights()
    for index in range(1, 6):
        source.tensors[f"blocks.{index}.mlp.fc1.weight"] = source["blocks.0.mlp.fc1.weight"]  # of rank one
    asked = recipe(generators=["mimic", "mimic_vae"], mimic_vae={"epochs": 1}, trials=100)
    found = study(source, asked, "layers", tmp_path / "j", say=silent)
    errors = [trial.user_attrs["error"] for trial in trials(tmp_path / "j") if "error" in trial.user_attrs]
    assert len(found.trials) == len(errors) == 8 and "for layers of rank" in errors[0]
