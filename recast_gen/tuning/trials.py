"""Runs trials of a study, alone or beside other processes, until it has as many as it should."""

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import optuna
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from ..errors import FitError
from .choice import front
from .objectives import excess
from .plan import Plan
from .samplers import sampler
from .setting import Setting
from .storage import GRACE, asked, connect, held, quiet, reachable, reclaim, requeue

PATIENCE = 2  # proposals of what was tried already, until an untried neighbour of the front is drawn
DRAWING = 20  # seconds until another process that has begun a trial and still draws its setting is taken for dead


class _Again(Exception):
    """A trial that need not run: others have run it, or the study is complete."""


def used(trial: FrozenTrial) -> bool:
    """Whether a trial counts: it ran, or runs, or its setting cannot be fitted."""
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING) or "error" in trial.user_attrs


class Runner:
    """A study that is open in this process; url: its storage, journal: the file where there is none."""

    def __init__(self, plan: Plan, url: str | None, journal: Path, say: Callable[[str], None] = print):
        self.plan, self.say = plan, say
        self.journal = None if url else journal
        self.shown = url or str(journal)
        self.repeated = 0
        self.lost: set[int] = set()
        with self.held(alone=True) as alone:
            self.storage = connect(url, journal, mended=alone)
            with reachable(self.shown), quiet():
                self.found = optuna.create_study(
                    storage=self.storage, study_name=plan.name, directions=plan.directions, load_if_exists=True,
                    pruner=optuna.pruners.MedianPruner(),
                )  # fmt: skip
                self._verify()

    def held(self, alone: bool = False):
        return held(self.journal, alone)

    def _verify(self) -> None:
        theirs, ours = self.found.user_attrs, self.plan.about
        if not theirs and not self.trials():
            for name, value in ours.items():
                self.found.set_user_attr(name, value)
            self.found.set_metric_names(list(self.plan.tune.objectives))
        elif theirs.get("key", ours["key"]) != ours["key"] or (not theirs and self.trials()):
            whose = f"{theirs.get('model', 'an unknown model')}, layers {theirs.get('layers', 'unknown')}"
            raise FitError(
                f"{self.shown} has another study called {self.plan.name}, of {whose}; here it is {ours['model']}, "
                f"layers {ours['layers']}. Give tune.storage another place."
            )

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.found.get_trials(deepcopy=False, states=states or None)

    def complete(self) -> list[FrozenTrial]:
        """Those with a result."""
        return [trial for trial in self.trials(TrialState.COMPLETE) if "row" in trial.user_attrs]

    def setting(self, trial: FrozenTrial) -> Setting:
        """The setting that a trial measures."""
        return self.plan.space.suggest(FixedTrial(asked(trial)))

    def missing(self) -> int:
        """How many trials the study still needs to begin."""
        return max(0, self.plan.limit - sum(map(used, self.trials())))

    def unfinished(self) -> int:
        """How many trials the study still needs to end: those that another process runs are not done."""
        return min(self.plan.limit, self.missing() + len(self.trials(TrialState.RUNNING)))

    def wait(self) -> None:
        """Waits while no trial is missing and other processes run some; what dead ones left is taken up (`prepare`)."""
        said, since = False, time.monotonic()
        while not self.missing() and (running := self.trials(TrialState.RUNNING)):
            if not said and time.monotonic() - since > 1:
                said = True
                waited = ", ".join(str(trial.number) for trial in running)
                self.say(f"waiting for trial {waited} of another process; one that is dead is found out by {GRACE} s")
            time.sleep(0.5)
            if time.monotonic() - since > GRACE:  # a process that died before its trial's first sign of life
                self._give_up([trial for trial in running if not trial.params and "begun" not in trial.user_attrs])
            self.prepare([])

    def _give_up(self, dead: list[FrozenTrial]) -> None:
        with reachable(self.shown), quiet():
            for trial in dead:
                requeue(self.found, trial)
                self.found.tell(trial.number, state=TrialState.FAIL)

    def prepare(self, own: Iterable[Setting]) -> None:
        """Takes up what dead processes left, and queues what is tried first: `own`, the paper's, corners, a grid."""
        with self.held(alone=True) as alone, reachable(self.shown):
            reclaim(self.found, alone, watched=isinstance(self.storage, optuna.storages.RDBStorage))
            space, limit = self.plan.space, self.plan.limit
            queue = dict.fromkeys([setting for setting in own if setting in space] + space.first())
            if self.plan.tune.sampler == "grid" or limit == space.size:
                for count in range(len(queue), limit):
                    queue[space.untried(set(queue), self.plan.recipe.seed + count)] = None
            kept = [trial for trial in self.trials() if used(trial) or trial.state == TrialState.WAITING]
            there = [asked(trial) for trial in kept]
            for setting in list(queue)[:limit]:
                params = space.params(setting)
                if params not in there:
                    self.found.enqueue_trial(params)

    def work(self, seed: int | None, go_on: Callable[[], bool] = lambda: True) -> None:
        """Runs trials until none is missing, or `go_on` says no.

        seed: of the sampler; None where several processes work, which must not propose the same.
        Raises FitError when the storage is lost.
        """
        with self.held(), reachable(self.shown), quiet():
            self.found.sampler = sampler(self.plan.tune.sampler, None if seed is None else seed + len(self.trials()))
            while self.missing() and go_on():
                try:
                    self.found.optimize(self._objective, n_trials=1, catch=(_Again, FitError))
                except UnboundLocalError as error:  # what Optuna makes of Ctrl+C while it stores a trial
                    raise KeyboardInterrupt from error

    def _objective(self, trial: optuna.Trial):
        plan = self.plan
        trial.set_user_attr("begun", True)
        try:
            setting = plan.space.suggest(trial)
            self._refuse_again(trial)
            row = plan.measure(setting, self._epochs(trial))
        except FitError as error:
            trial.set_user_attr("error", str(error))
            self.say(f"trial {trial.number}: {setting}: {error}")
            raise
        except KeyboardInterrupt:
            self.found.enqueue_trial(trial.params)
            raise
        trial.set_user_attr("row", row)
        trial.set_user_attr("families", plan.measure.by_family(setting))
        for name, limit in plan.tune.constraints.items():
            trial.set_constraint(name, excess(name, row[name], limit))
        values = ", ".join(f"{name} {row[name]:.4g}" for name in plan.tune.objectives)
        self.say(f"trial {trial.number}: {setting}: {values}")
        return tuple(row[name] for name in plan.tune.objectives)

    def _epochs(self, trial: optuna.Trial):
        """A callback that ends hopeless trainings, where accuracy is all that counts."""
        if self.plan.tune.objectives != ["accuracy"]:
            return None

        def on_epoch(accuracy: float, epoch: int) -> None:
            trial.report(accuracy, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        return on_epoch

    def _others(self, number: int) -> list[FrozenTrial]:
        """All trials but one.  Waits until the processes that run earlier ones have drawn their settings."""
        end = time.monotonic() + DRAWING
        while True:
            others = [other for other in self.trials() if other.number != number]
            running = [other for other in others if other.state == TrialState.RUNNING and other.number < number]
            drawing = {other.number for other in running if not self._drawn(other)}
            if drawing <= self.lost:
                return others
            if time.monotonic() > end:
                self.lost |= drawing
            time.sleep(0.02)

    def _drawn(self, trial: FrozenTrial) -> bool:
        try:
            self.setting(trial)
        except ValueError:  # a parameter has no value yet
            return False
        return True

    def _refuse_again(self, trial: optuna.Trial) -> None:
        everything = self._others(trial.number)
        others = [other for other in everything if used(other)]
        before = [other for other in others if other.state != TrialState.RUNNING or other.number < trial.number]
        if len(before) >= self.plan.limit:
            raise _Again
        queued = [other for other in everything if other.state == TrialState.WAITING and other.number < trial.number]
        if trial.params not in map(asked, before + queued):
            self.repeated = 0
            return
        self.repeated += 1
        if self.repeated >= PATIENCE:
            tried = {self.setting(other): other for other in others if other.state != TrialState.RUNNING}
            if len(tried) < self.plan.space.size:
                near = () if self.plan.tune.sampler == "random" else self._front(tried)
                fresh = self.plan.space.untried(set(tried), self.plan.recipe.seed + trial.number, near)
                self.found.enqueue_trial(self.plan.space.params(fresh))
        raise _Again

    def _front(self, tried: dict[Setting, FrozenTrial]) -> list[Setting]:
        rows = {setting: trial.user_attrs["row"] for setting, trial in tried.items() if "row" in trial.user_attrs}
        best = front(list(rows.values()), self.plan.tune.objectives)
        return [setting for setting, row in rows.items() if any(row is other for other in best)]
