"""`recast compare` on a really trained network and real images."""

import recast_gen as rg

from ..process import recast
from .test_cifar import REAL, pytestmark  # noqa: F401  (the mark skips this file too)


def printed(bank, tmp_path) -> dict[str, str]:
    bank.save(tmp_path / "bank.zarr")
    words = [tmp_path / "bank.zarr", REAL / "cifar10_vit.safetensors", "--images", REAL / "cifar10_test1000.npz"]
    done = recast("compare", *words)
    assert done.returncode == 0, done.stderr
    return {line[:24].strip(): line[24:].strip() for line in done.stdout.splitlines()}


def test_full_templates_change_nothing_and_fewer_say_what_they_cost(tmp_path):
    full = printed(rg.mimic(REAL / "cifar10_vit.safetensors"), tmp_path)
    assert full["same prediction"] == "100.0%" and full["accuracy"] == "73.0% before, 73.0% with the bank"
    assert [full[f"blocks.{index}"] for index in range(4)] == ["cosine of features 1.000000"] * 4
    fewer = printed(rg.mimic(REAL / "cifar10_vit.safetensors", templates=2), tmp_path)
    assert float(fewer["blocks.3"].split()[-1]) < 0.9 and float(fewer["same prediction"][:-1]) < 60
