"""The benchmark of whole files: what it writes is what files hold, and what its table says."""

import numpy as np
import torch
from torch.utils.data import TensorDataset

from benchmarks import measured, whole_task
from recast_gen.tasks.data import Splits


class Pico:
    """A backbone of the tests' size."""

    name, head = "pico", "head"

    def __init__(self, vit):
        self.vit = vit

    def __call__(self, classes=None):
        return self.vit() if classes is None else self.vit(num_classes=classes)

    def splits(self, task):
        generator = torch.Generator().manual_seed(0)
        centres, parts = 2 * torch.randn(3, *self.vit.images, generator=generator), []
        for count in (60, 30, 30):
            labels = torch.arange(count) % 3
            images = centres[labels] + torch.randn(count, *self.vit.images, generator=generator)
            parts.append(TensorDataset(images, labels))
        return Splits(*parts, classes=["a", "b", "c"])

    def bank(self):
        return self.vit.bank(self.vit(), groups=2)


def test_rows_are_of_the_files_that_are_written_and_few_bits_are_smaller(vit, tmp_path, monkeypatch):
    monkeypatch.setattr(measured, "RESULTS", tmp_path)
    table = measured.Table("whole_task.csv", whole_task.TABLE.key, whole_task.COLUMNS)
    for name, value in {"TABLE": table, "KEPT": tmp_path / "kept", "EPOCHS": 1, "NAMES": {"pico": Pico(vit)}}.items():
        monkeypatch.setattr(whole_task, name, value)
    monkeypatch.setattr(whole_task, "TASKS", ("blobs",))
    whole_task.run(["pico"], list(whole_task.WAYS), ["0"])
    rows = table.rows()
    assert len(rows) == 4
    for (_, task, way, seed, bits), row in rows.items():
        path = tmp_path / "kept" / f"pico-{task}-{way}-{seed}-{bits}.safetensors"
        assert path.stat().st_size == int(row["bytes"]) == sum(int(row[part]) for part in whole_task.PARTS)
    for way in whole_task.WAYS:
        before, after = (rows["pico", "blobs", way, "0", bits] for bits in whole_task.BITS)
        assert int(after["bytes"]) < int(before["bytes"])
        assert float(after["validation"]) >= float(before["validation"]) - 0.005 - 1e-6
    assert (
        whole_task.table().count("\n") == 3 and np.load(tmp_path / "kept" / "pico-blobs.npz")["x_train"].shape[0] == 60
    )
    whole_task.run(["pico"], ["head"], ["0"])
    assert len(table.rows()) == 4
