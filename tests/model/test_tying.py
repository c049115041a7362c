"""Several coefficients that are one number: in training, in the file, and through every door."""

import numpy as np
import pytest
import torch
from torch.func import functional_call
from torch.nn.functional import cross_entropy

import recast_gen as rg
from recast_gen.bank import taskfile
from recast_gen.bank.tying import Tie, means
from recast_gen.errors import TaskError
from recast_gen.model.attach import attached


def made(vit, **attached):
    """A model with a bank whose layers have templates of their own, and the bank."""
    bank = rg.extend(vit.bank(vit(), groups=2), source="singular", rank=2)
    return rg.attach(vit(), bank, **attached), bank


def trained(model, images, optimizer, steps: int = 3) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(images), torch.arange(len(images)) % 3).backward()
        optimizer.step()


def steps_of(model, bank, names=None) -> list[np.ndarray]:
    """How far the coefficients of layers are from the bank's."""
    found = dict(zip(attached(model), rg.coefficients(model)))
    bases = {name: base for group in bank.groups.values() for name, base in group}
    return [found[name].detach().numpy() - bases[name] for name in names or bank.layers]


@pytest.mark.parametrize("how", ["group", "family", 5])
def test_what_is_tied_is_one_number_in_training_and_in_the_file(vit, tmp_path, how):
    model, bank = made(vit)
    images, path = vit.batch(), tmp_path / "task.safetensors"
    optimizer = torch.optim.AdamW(rg.rates(model), weight_decay=0.1)
    count = rg.tie(model, bank, optimizer, how)
    trained(model, images, optimizer)
    moved = np.concatenate([step.ravel() for step in steps_of(model, bank)])
    shapes = {name: step.shape for name, step in zip(bank.layers, steps_of(model, bank))}
    places = Tie(how).places(bank, shapes)
    np.testing.assert_allclose(moved, means(moved, places)[places], atol=1e-5)
    assert np.abs(moved).min() > 1e-6 and count == len(np.unique(places)) < moved.size
    if how == "family":
        for family in bank.families.values():
            first, *others = steps_of(model, bank, family.names)
            for other in others:
                np.testing.assert_allclose(other, first, atol=1e-6)
    for bits, most in ((32, 4 * count), (8, 2 + count)):
        rg.save_task(path, model, bank, tie=how, coefficient_bits=bits, head_bits=16)
        assert taskfile.parts(path)["coefficients"] <= most
        other = rg.attach(vit(), bank)
        rg.load_task(path, other, bank)
        torch.testing.assert_close(other(images), model(images), rtol=1e-2, atol=1e-2)
        plain, written = vit(), path.read_bytes()
        plain.load_state_dict({name: torch.from_numpy(array) for name, array in rg.generate(bank, path).items()})
        torch.testing.assert_close(plain(images), other(images), rtol=1e-3, atol=1e-4)
        again = taskfile.read(path, bank)
        assert "tie" not in again.about and taskfile.write(path, again, bank) == len(written) == path.stat().st_size
        assert path.read_bytes() == written
    again.coefficients[next(iter(bank.layers))] += 1  # no longer tied, and written as it is
    taskfile.write(path, again, bank)
    found = taskfile.read(path, bank).coefficients
    assert all(np.array_equal(found[name], again.coefficients[name]) for name in found)


def test_training_is_that_of_few_numbers_on_an_isometric_projection(vit):
    model, bank = made(vit)
    known, images = dict(zip(attached(model), rg.coefficients(model))), vit.batch()
    ordered = [known[name] for name in bank.layers]
    shapes = {name: tuple(known[name].shape) for name in bank.layers}
    places = torch.from_numpy(Tie(7).places(bank, shapes))
    share = torch.bincount(places).sqrt()
    numbers = torch.zeros(int(places.max()) + 1, requires_grad=True)
    called = {id(found): name for name, found in model.named_parameters()}
    names = [called[id(each)] for each in ordered]
    bases = torch.cat([each.detach().reshape(-1) for each in ordered])

    def explicit(images):
        parts = (bases + (numbers / share)[places]).split([int(np.prod(shape)) for shape in shapes.values()])
        return functional_call(
            model, {name: part.reshape(shape) for name, part, shape in zip(names, parts, shapes.values())}, (images,)
        )

    trained(explicit, images, torch.optim.SGD([numbers], 0.01))
    optimizer = torch.optim.SGD(rg.coefficients(model), 0.01)
    rg.tie(model, bank, optimizer, 7)
    trained(model, images, optimizer)
    found = torch.cat([each.detach().reshape(-1) for each in ordered])
    torch.testing.assert_close(found, bases + (numbers / share)[places].detach(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("model", "different shapes.*give a count"),
        (10**6, "there are [0-9]+ coefficients"),
        (0, "tie=0"),
        ("layer", "none, group, family, model"),
    ],
)
def test_what_cannot_be_tied_is_refused(vit, how, said):
    bank = rg.mimic(vit(), families=vit.families, groups=2, norms="affine")
    model = rg.attach(vit(), bank)
    with pytest.raises(TaskError, match=said):
        rg.tie(model, bank, torch.optim.SGD(rg.coefficients(model), 0.1), how)


def test_what_was_not_tied_is_not_written_as_if(vit, tmp_path):
    model, bank = made(vit)
    trained(model, vit.batch(), torch.optim.SGD(rg.coefficients(model), 0.1))
    with pytest.raises(TaskError, match="not tied as `tie` says"):
        rg.save_task(tmp_path / "task", model, bank, tie="family")
    assert not list(tmp_path.iterdir())
