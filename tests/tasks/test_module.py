"""Training of one classifier: schedules, accumulation, early stopping, resuming, and what it refuses."""

import signal

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from recast_gen.errors import DataError, FitError
from recast_gen.recipe.training import Training
from recast_gen.tasks.data import Splits
from recast_gen.tasks.loop import Loop
from recast_gen.tasks.module import accuracy, fit


def blobs(count: int = 100, classes: int = 3, shape=(6,)) -> Splits:
    """Gaussian clouds that overlap."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    images = torch.randn(count, *shape, generator=generator) + labels.view(-1, *[1] * len(shape)) * 0.7
    parts = [TensorDataset(images[start::3], labels[start::3]) for start in range(3)]
    return Splits(*parts, classes=[f"class {label}" for label in range(classes)])


def network(outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, outputs))


def train(model=None, splits=None, folder=None, bank=None, on_epoch=None, **settings):
    model = model or network()
    rates = [{"params": [p for p in model.parameters() if p.requires_grad], "lr": settings.pop("lr", 0.02)}]
    settings = Training(**{"epochs": 6, "batch_size": 10} | settings)
    return fit(model, splits or blobs(), settings, rates, seed=3, bank=bank, folder=folder, on_epoch=on_epoch)


class Killed(BaseException):
    """Stands for a process's end in the middle of an epoch."""


@pytest.mark.parametrize("schedule", ["step", "onecycle"])
@pytest.mark.parametrize("others", [{}, {"accumulate": 3}, {"patience": 2, "lr": 0.3}])
def test_a_run_that_is_interrupted_anywhere_ends_as_if_it_had_not_been(schedule, others, tmp_path, monkeypatch):
    settings = {"schedule": schedule, "step_size": 2} | others
    whole = train(**settings)
    step, left = Loop.model_step, iter(range(13))  # an epoch has 4 batches to train on and one to validate on

    def model_step(self, batch):
        if next(left, None) is None:
            raise Killed
        return step(self, batch)

    monkeypatch.setattr(Loop, "model_step", model_step)
    with pytest.raises(Killed):
        train(folder=tmp_path, **settings)
    monkeypatch.setattr(Loop, "model_step", step)
    resumed = train(folder=tmp_path, **settings)
    assert torch.equal(whole.logits, resumed.logits)
    assert (whole.history, whole.best_epoch, whole.score) == (resumed.history, resumed.best_epoch, resumed.score)
    monkeypatch.setattr(Loop, "model_step", None)  # a finished run is not repeated
    again = train(folder=tmp_path, **settings)
    assert torch.equal(again.logits, whole.logits) and again.costs == resumed.costs
    monkeypatch.setattr(Loop, "model_step", step)
    (tmp_path / "last.ckpt").write_bytes((tmp_path / "last.ckpt").read_bytes()[:2000])  # a power loss: it starts anew
    assert torch.equal(train(folder=tmp_path, **settings).logits, whole.logits)


def test_a_resumed_run_gets_from_its_workers_what_it_would_have_got(tmp_path):
    class Noisy(Dataset):
        """The images with noise of their own each time they are read."""

        def __init__(self, images):
            self.images = images

        def __len__(self):
            return len(self.images)

        def __getitem__(self, index):
            image, label = self.images[index]
            return image + torch.randn_like(image), label

    splits = blobs()
    splits.train = Noisy(splits.train)
    whole = train(splits=splits, workers=1, epochs=3)

    def end(accuracy, epoch):
        if epoch == 2:
            raise Killed

    with pytest.raises(Killed):
        train(splits=splits, workers=1, epochs=3, folder=tmp_path, on_epoch=end)
    resumed = train(splits=splits, workers=1, epochs=3, folder=tmp_path)
    assert resumed.history == whole.history and torch.equal(resumed.logits, whole.logits)


def test_ctrl_c_in_training_is_ctrl_c():
    def interrupt(accuracy, epoch):
        raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):  # Lightning makes it an exit with status 1
        train(on_epoch=interrupt)
    assert signal.getsignal(signal.SIGINT) == before


def test_early_stopping_ends_after_so_many_epochs_without_a_better_one():
    found = train(lr=1e-7, epochs=50, patience=3)
    assert len(found.history) < 50 and found.best_epoch == len(found.history) - 3


def test_accumulated_batches_are_one_large_batch_and_the_schedule_counts_steps():
    quiet = {"clip": 0.0, "epochs": 3, "schedule": "onecycle"}
    model, same = (nn.Linear(6, 3), nn.Linear(6, 3))
    same.load_state_dict(model.state_dict())
    splits = blobs(count=90)  # 30 images to train
    train(model, splits, batch_size=30, **quiet)
    train(same, splits, batch_size=10, accumulate=3, **quiet)
    assert torch.allclose(model.weight, same.weight, atol=1e-5)
    train(nn.Linear(6, 3), splits, batch_size=7, accumulate=2, **quiet)  # 3 steps an epoch; torch refuses one more


def test_checkpoints_hold_only_what_is_trained(tmp_path):
    model = network()
    model[0].requires_grad_(False)
    train(model, folder=tmp_path, bank="hash")
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    names = {"3.weight", "3.bias"}
    assert set(kept["run"]["best"]["state"]) == names and set(kept["model"]) == names
    assert kept["run"]["bank"] == "hash"


def test_the_best_epoch_is_what_is_left_and_costs_are_counted():
    splits, model = blobs(), network()
    found = train(model, splits, lr=0.3)
    assert accuracy(model, splits.validation) == pytest.approx(found.validation, abs=1e-6)
    assert found.validation == max(row["validation"] for row in found.history)
    assert found.costs["seconds"] > 0 and found.costs["peak_bytes"] >= 0


@pytest.mark.parametrize(
    ("model", "splits", "says"),
    [
        (network(5), blobs(), "gives \\(5,\\) logits an image; the task has 3 classes: class 0.*`num_classes: 3`"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)),
         blobs(shape=(1, 8, 8)), "takes no images of shape \\(1, 8, 8\\).*input_size"),
    ],
)  # fmt: skip
def test_a_head_or_images_that_do_not_fit_are_refused_before_training(model, splits, says):
    with pytest.raises(DataError, match=says):
        train(model, splits)


@pytest.mark.parametrize("settings", [{"lr": 1e-12}, {"lr": 1e3, "clip": 0.0}, {"lr": float("inf"), "clip": 0.0}])
def test_a_start_is_never_made_worse(settings, capsys):
    splits, model = blobs(), network()
    train(model, splits)
    before = accuracy(model, splits.validation)
    found = train(model, splits, bank="hash", **settings)
    assert found.start == found.history[0]["validation"] == before and found.history[0]["epoch"] == 0
    assert found.validation >= before and accuracy(model, splits.validation) == found.validation
    assert (found.best_epoch == 0) == (found.validation == before)
    assert ("diverged" in capsys.readouterr().out) == (settings["lr"] == float("inf"))


def test_a_training_that_diverges_at_once_is_refused():
    model = network()
    model[0].weight.data.fill_(float("nan"))
    with pytest.raises(FitError, match="diverged"):
        train(model)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_refused_with_a_remedy():
    with pytest.raises(FitError, match="`accelerator: gpu, devices: 1`.*use `accelerator: auto`"):
        train(accelerator="gpu")


def test_reduced_precision_is_a_flag():
    half, whole = train(precision="bf16-mixed"), train()
    assert not torch.equal(half.logits, whole.logits) and abs(half.test - whole.test) < 0.2
