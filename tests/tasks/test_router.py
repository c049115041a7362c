"""A library that is not told the task: its router names it, grows task by task, and comes back from its file."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import recast_gen as rg
from recast_gen.errors import DataError, StoreError, TaskError

from ..conftest import VIT
from ..model.test_switching import adapt

TASKS = {"birds": 2, "cars": 5, "flowers": 3}  # classes


def images(task: str, count: int = 60, seed: int = 0) -> torch.Tensor:
    """Images of one task look alike: each has its own pattern under noise."""
    pattern = torch.randn(1, *VIT.images, generator=torch.Generator().manual_seed(len(task) + 50))
    return 3 * pattern + torch.randn(count, *VIT.images, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def lib(tmp_path) -> rg.TaskLibrary:
    bank = VIT.bank(VIT())
    for seed, (name, classes) in enumerate(TASKS.items()):
        rg.save_task(tmp_path / f"{name}.safetensors", adapt(VIT, bank, classes, seed).eval(), bank, head="head")
    return rg.TaskLibrary(tmp_path, VIT(), bank)


@pytest.mark.parametrize(
    ("head", "stages"), [("ridge", 1), ("ridge", 3), ("means", 1), ("random_ridge", 2), ("statistics", 1)]
)
def test_images_without_a_named_task_go_to_the_routers_and_each_gets_its_own_tasks_logits(head, stages, lib):
    asked = rg.router(lib, head, stages=stages)
    batch = torch.cat([images(task, 4, seed=9) for task in TASKS])
    right = [task for task in TASKS for _ in range(4)]
    plain = lib(batch[:2], "birds")
    for count, task in enumerate(TASKS, 1):
        assert asked.add(task, images(task)) is asked
        assert asked(batch[: 4 * count]) == right[: 4 * count]
    torch.testing.assert_close(lib(batch), lib(batch, tasks=right))
    torch.testing.assert_close(lib(batch[:2]), plain, check_stride=False)
    assert lib.names == sorted(TASKS)  # the router's file is no task
    assert torch.equal(lib(batch, "cars"), lib(batch, ["cars"] * 12))  # a name is a name

    again = rg.TaskLibrary(lib.folder, VIT(), lib.bank)
    unrouted = again(batch)
    found = rg.router(again)
    assert found(batch) == right and again(batch).shape == (12, 5) != unrouted.shape
    assert found.head.features == 16 * stages
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    assert not any(vars(module)[name] for module in lib.model.modules() for name in hooks)
    with pytest.raises(TaskError, match="no task 'bird'. Did you mean 'birds'"):
        asked.add("bird", images("birds"))


class Unnamed(nn.Module):
    """Whose head neither its bank nor timm knows."""

    def __init__(self, classes: int = 2):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.linear = nn.Linear(4, classes)

    def forward(self, images):
        for layer in self.layers:
            images = layer(images)
        return self.linear(images.mean((2, 3)))


def test_a_router_finds_a_head_that_only_the_tasks_name(tmp_path):
    start = Unnamed()
    bank = rg.mimic(start, by="index")
    for name, classes in TASKS.items():
        (model := Unnamed(classes)).layers.load_state_dict(start.layers.state_dict())
        rg.save_task(tmp_path / f"{name}.safetensors", rg.attach(model, bank).eval(), bank, head="linear")
    lib = rg.TaskLibrary(tmp_path, start, bank)
    asked, seen = rg.router(lib, "means"), torch.eye(4)[:3, :, None, None].expand(3, 4, 5, 5)
    for task, image in zip(TASKS, seen):
        asked.add(task, image[None])
    assert asked(seen) == list(TASKS) and lib(seen).shape == (3, 5)


def test_pictures_without_a_named_task_are_predicted_by_the_tasks_that_the_router_names(lib):
    generator, pictures = np.random.default_rng(0), []
    for _ in range(4):
        pictures.append(Image.fromarray(generator.integers(0, 256, (VIT.images[1], VIT.images[2], 3), dtype=np.uint8)))
    with pytest.raises(TaskError, match="name one, or make a router"):
        lib.predict(pictures)
    lib.router = lambda batch: ["cars", "birds", "cars", "flowers"]
    wanted = [lib.predict([picture], task)[0] for picture, task in zip(pictures, lib.router(None))]
    for found, one in zip(lib.predict(pictures), wanted):
        assert found == pytest.approx(one, abs=1e-5)
    assert lib.current is None
    lib.use("birds")
    assert [len(found) for found in lib.predict(pictures)] == [2] * 4  # what is in use is in use


def test_a_router_learns_while_a_task_is_in_use_and_leaves_it_so(lib):
    asked, batch = rg.router(lib, "ridge"), images("cars", 3)
    lib.use("cars")
    before = lib(batch)
    asked.add("birds", images("birds")).add("cars", images("cars"))
    assert lib.current == "cars" and torch.equal(lib(batch), before)  # what is in use is in use
    assert asked(batch) == ["cars"] * 3
    lib.base()
    torch.testing.assert_close(lib(batch), before, rtol=1e-4, atol=1e-5)


def test_the_order_of_tasks_and_of_their_images_does_not_matter(lib):
    parts = [(task, part) for task in TASKS for part in images(task).split(10)]
    scores = []
    for order in (parts, parts[::-1]):
        asked = rg.router(lib, "ridge", strength=0.01)
        for task, part in order:
            asked.add(task, part)
        found = asked.head.scores(torch.randn(5, 16, generator=torch.Generator().manual_seed(0)))
        scores.append(found[:, [asked.tasks.index(task) for task in TASKS]])
    torch.testing.assert_close(*scores, rtol=1e-6, atol=1e-6)


def test_a_router_of_another_bank_or_of_tasks_that_are_gone_is_refused(lib, tmp_path):
    with pytest.raises(StoreError, match="has no router: make one"):
        rg.router(lib)
    with pytest.raises(TaskError, match="learnt no task"):
        rg.router(lib, "means")(images("cars"))
    with pytest.raises(TaskError, match="No head 'rigde'. Did you mean 'ridge'"):
        rg.router(lib, "rigde")
    for many in (0, 9):
        with pytest.raises(DataError, match=f"`stages: {many}`, but the network has 4: blocks.0"):
            rg.router(lib, "ridge", stages=many)
    for settings in ({"stages": 2}, {"strength": 0.1}, {"seed": 1}):
        with pytest.raises(TaskError, match="are of a new router: name its head"):
            rg.router(lib, **settings)
    for task in TASKS:
        rg.router(lib, "ridge").add(task, images(task))
    other = tmp_path / "other"
    other.mkdir()
    bank = VIT.bank(VIT(), gauge="identity")
    rg.save_task(other / "cars.safetensors", adapt(VIT, bank, 5, 0).eval(), bank, head="head")
    (other / "router.safetensors").write_bytes((lib.folder / "router.safetensors").read_bytes())
    with pytest.raises(TaskError, match="belongs to bank"):
        rg.router(rg.TaskLibrary(other, VIT(), bank))
    (lib.folder / "flowers.safetensors").unlink()
    with pytest.raises(TaskError, match="knows flowers"):
        rg.router(lib)
