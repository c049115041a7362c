"""torchvision's datasets from archives made here: whole, of a wrong checksum, cut off, and interrupted."""

import hashlib
import io
import shutil
import tarfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torchvision
from PIL import Image

from recast_gen.errors import DataError
from recast_gen.recipe.images import Data
from recast_gen.tasks import data

CONFIG = {"input_size": [3, 4, 4], "mean": [0.5] * 3, "std": [0.5] * 3, "crop_pct": 1.0}
vision = torchvision.datasets


def picture(shade: int) -> bytes:
    Image.new("RGB", (4, 4), (shade,) * 3).save(file := io.BytesIO(), "jpeg")
    return file.getvalue()


def tar(path: Path, files: dict[str, bytes]) -> str:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return md5(path)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def flowers(server: Path, url: str, monkeypatch) -> None:
    images = {f"jpg/image_{number:05d}.jpg": picture(number) for number in range(1, 31)}
    rows, places = np.arange(1, 31), {"trnid": slice(0, 12), "valid": slice(12, 18), "tstid": slice(18, 30)}
    scipy.io.savemat(server / "imagelabels.mat", {"labels": (rows % 2 + 1)[None]})
    scipy.io.savemat(server / "setid.mat", {name: rows[place][None] for name, place in places.items()})
    archive = {"image": ("102flowers.tgz", tar(server / "102flowers.tgz", images))}
    others = {key: (name, md5(server / name)) for key, name in (("label", "imagelabels.mat"), ("setid", "setid.mat"))}
    monkeypatch.setattr(vision.Flowers102, "_download_url_prefix", f"{url}/")
    monkeypatch.setattr(vision.Flowers102, "_file_dict", archive | others)


def dtd(server: Path, url: str, monkeypatch) -> None:
    names = [f"{kind}/{kind}_{number}.jpg" for kind in ("banded", "dotted") for number in range(6)]
    lists = {"train": names[:3] + names[6:9], "val": names[3:4] + names[9:10], "test": names[4:6] + names[10:]}
    files = {f"dtd/images/{name}": picture(place) for place, name in enumerate(names)}
    files |= {f"dtd/labels/{part}1.txt": "\n".join(found).encode() for part, found in lists.items()}
    monkeypatch.setattr(vision.DTD, "_MD5", tar(server / "dtd.tar.gz", files))
    monkeypatch.setattr(vision.DTD, "_URL", f"{url}/dtd.tar.gz")


def eurosat(server: Path, url: str, monkeypatch) -> None:
    with zipfile.ZipFile(server / "EuroSAT.zip", "w") as archive:
        for place, name in enumerate(("Forest", "River")):
            for number in range(10):
                archive.writestr(f"2750/{name}/{name}_{number}.jpg", picture(place * 90 + number))
    fetch, right = vision.utils.download_and_extract_archive, md5(server / "EuroSAT.zip")
    local = lambda _, download_root, md5: fetch(f"{url}/EuroSAT.zip", download_root, md5=right)  # noqa: E731
    monkeypatch.setattr(vision.eurosat, "download_and_extract_archive", local)


SETS = {
    "Flowers102": (flowers, (12, 6, 12), "102flowers.tgz"), "DTD": (dtd, (6, 2, 4), "dtd.tar.gz"),
    "EuroSAT": (eurosat, (14, 3, 3), "EuroSAT.zip"),
}  # fmt: skip


@pytest.fixture(params=SETS)
def made(request, tmp_path, monkeypatch):
    """A dataset whose server is here: how to load it, its sizes, its archive, where it is kept."""
    (folder := tmp_path / "server").mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    prepare, sizes, archive = SETS[request.param]
    prepare(folder, f"http://127.0.0.1:{server.server_port}", monkeypatch)
    source = Data(source="torchvision", name=request.param, path=str(tmp_path / "kept"), classes=[0, 1])
    yield lambda: data.load(source, CONFIG, 0), sizes, folder / archive, tmp_path / "kept"
    server.shutdown()
    server.server_close()


def test_a_dataset_is_downloaded_once_and_keeps_its_parts(made):
    load, sizes, archive, _ = made
    found = load()
    assert (len(found.train), len(found.validation), len(found.test)) == sizes and len(found.classes) == 2
    archive.unlink()
    assert len(load().test) == sizes[2]


@pytest.mark.parametrize("how", ["changed", "cut"])
def test_an_archive_that_is_not_the_published_one_is_refused_and_a_whole_one_taken_after_it(how, made):
    load, sizes, archive, _ = made
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2] if how == "cut" else whole + b"x")
    with pytest.raises(DataError, match="could not be had .*corrupted.*put its files under"):
        load()
    archive.write_bytes(whole)
    assert len(load().test) == sizes[2]


def test_what_an_interrupted_download_leaves_is_never_taken_for_the_whole(made, monkeypatch):
    load, sizes, _, kept = made

    def interrupted(extract, names):
        def part(archive, path, **how):
            extract(archive, path, members=list(names(archive))[:-1])
            raise KeyboardInterrupt

        return part

    with monkeypatch.context() as patch:
        for kind, names in ((zipfile.ZipFile, "namelist"), (tarfile.TarFile, "getmembers")):
            patch.setattr(kind, "extractall", interrupted(kind.extractall, getattr(kind, names)))
        with pytest.raises(KeyboardInterrupt):
            load()
    if sizes != SETS["Flowers102"][1]:  # which checks its files by itself
        with pytest.raises(DataError, match="was interrupted, and what it left may lack images: remove its files"):
            load()
        for folder in filter(Path.is_dir, kept.iterdir()):
            shutil.rmtree(folder)
    assert len(load().test) == sizes[2] and not list(kept.glob(".*.incomplete"))
