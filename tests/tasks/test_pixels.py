"""Images are opened as a viewer shows them, from files and arrays alike."""

import struct
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps

from recast_gen.bank.pixels import open_image
from recast_gen.errors import DataError
from recast_gen.recipe.images import Data
from recast_gen.tasks import data

CONFIG = {"input_size": [3, 8, 8], "mean": [0.0] * 3, "std": [1.0] * 3, "crop_pct": 1.0, "interpolation": "nearest"}


def stored(image: Image.Image, kind: str = "png", **how) -> BytesIO:
    image.save(file := BytesIO(), kind, **how)
    return file


def point(*xyz: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(part * 65536) for part in xyz))


def profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """A minimal ICC profile, version 2: https://www.color.org/icc32.pdf."""
    tags = tags | {b"wtpt": point(0.9642, 1, 0.8249)}
    start, table, body = 132 + 12 * len(tags), b"", b""
    for name, content in tags.items():
        table += name + struct.pack(">2I", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s12x4s", start + len(body), b"lcms", 0x02100000, b"mntr", space, b"XYZ ", b"acsp")
    return (
        head.ljust(68, b"\0")
        + struct.pack(">3i", 63190, 65536, 54061)
        + bytes(48)
        + struct.pack(">I", len(tags))
        + table
        + body
    )


def gamma(value: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(value * 256))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_orientation_is_that_of_every_viewer(kind, orientation):
    image = Image.new("RGB", (16, 8))
    image.paste((255, 255, 255), (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = open_image(stored(image, kind, exif=exif, quality=100))
    expected = ImageOps.exif_transpose(Image.open(stored(image, kind, exif=exif, quality=100)))
    assert seen.size == expected.size and np.abs(np.array(seen) - np.array(expected).astype(int)).max() < 3


def transparent() -> dict[str, object]:
    """Ways in which an image is transparent over a hidden red."""
    red = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0])
    grey = Image.new("LA", (4, 4), (0, 0))
    deep = Image.fromarray(np.zeros((4, 4), np.uint16))
    return {
        "rgba": stored(red), "palette": stored(palette, transparency=0), "gif": stored(palette, "gif", transparency=0),
        "grey": stored(grey), "array": np.array(red), "key": stored(red.convert("RGB"), transparency=(255, 0, 0)),
        "deep": stored(deep, transparency=0), "webp": stored(red, "webp", lossless=True, exact=True), "image": red,
    }  # fmt: skip


@pytest.mark.parametrize("kind", transparent())
def test_what_is_transparent_is_white_whatever_is_hidden_there(kind):
    seen = open_image(transparent()[kind])
    assert seen.mode in ("L", "RGB") and (np.array(seen) == 255).all()


def test_half_transparent_pixels_are_half_white():
    assert open_image(Image.new("RGBA", (1, 1), (0, 0, 0, 128))).getpixel((0, 0)) == (127, 127, 127)


def test_colours_are_those_of_the_files_profile():
    points = {
        b"rXYZ": point(0.1431, 0.0606, 0.7141), b"gXYZ": point(0.3851, 0.7169, 0.0971),
        b"bXYZ": point(0.4361, 0.2225, 0.0139),
    }  # fmt: skip
    curves = {name: gamma(2.2) for name in (b"rTRC", b"gTRC", b"bTRC")}
    swapped = profile(b"RGB ", points | curves)  # sRGB's blue where others have red
    for mode, colour in (("RGB", (255, 0, 0)), ("RGBA", (255, 0, 0, 255))):
        red, green, blue = open_image(stored(Image.new(mode, (4, 4), colour), icc_profile=swapped)).getpixel((0, 0))
        assert red < 20 and green < 20 and blue > 235
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0])
    assert open_image(stored(palette, icc_profile=swapped)).getpixel((0, 0))[2] > 235
    linear = profile(b"GRAY", {b"kTRC": gamma(1.0)})
    seen = open_image(stored(Image.new("L", (4, 4), 55), icc_profile=linear))
    assert seen.mode == "L" and abs(seen.getpixel((0, 0)) - 128) < 4  # a linear 0.216 is sRGB's 0.5
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    for damaged in (b"noise" * 9, swapped[:150], linear):
        assert open_image(stored(red, icc_profile=damaged)).getpixel((0, 0)) == (255, 0, 0)


def test_cmyk_and_16_bits_are_read_where_the_file_says_what_they_mean():
    assert open_image(stored(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "jpeg")).getpixel((0, 0))[0] > 200
    ramp = np.linspace(0, 65535, 16).astype(np.uint16).reshape(4, 4)
    assert np.array_equal(np.array(open_image(stored(Image.fromarray(ramp)))), ramp >> 8)
    with pytest.raises(DataError, match="more than 8 bits"):
        open_image(stored(Image.fromarray(ramp), "tiff"))  # which may as well be 12 bits in 16


def test_a_task_sees_the_same_whether_images_are_files_rows_or_arrays(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = np.zeros((8, 8, 4), np.uint8)
    lying[:4] = (255, 0, 0, 255)
    for name in ("a", "b"):
        (tmp_path / "f" / name).mkdir(parents=True)
        for index in range(8):
            Image.fromarray(lying).save(tmp_path / "f" / name / f"{index}.png", exif=exif)
    rows = [f"{path},{path.parent.name}" for path in (tmp_path / "f").rglob("*.png")]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows]))
    standing = np.repeat(np.rot90(lying, -1)[None], 16, 0)
    np.savez(tmp_path / "a.npz", x=standing, y=np.arange(16) % 2)
    for source, path in (("folder", "f"), ("csv", "t.csv"), ("npz", "a.npz")):
        image, _ = data.load(Data(source=source, path=str(tmp_path / path)), CONFIG, 0).train[0]
        assert (image[:, 0, -1].tolist(), image[:, 0, 0].tolist()) == ([1, 0, 0], [1, 1, 1])


@pytest.mark.parametrize("array", [np.ones((8, 8, 3), "f4"), np.ones((8, 8, 3), "u2"), np.ones((3, 8, 8), "u1")])
def test_an_array_of_another_form_is_refused_by_its_form(array):
    with pytest.raises(DataError, match=rf"{array.dtype}.*expected uint8 `h w`"):
        open_image(array)
