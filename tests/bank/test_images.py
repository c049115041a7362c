"""Images on a device are those that a task was trained on, bit for bit."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform, resolve_data_config

from recast_gen.bank.images import prepare

MODES = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")


@given(
    size=st.tuples(st.integers(12, 50), st.integers(12, 50)),
    target=st.tuples(st.sampled_from([1, 3]), st.integers(4, 24), st.integers(4, 24)),
    square=st.booleans(), share=st.sampled_from([0.875, 0.9, 1.0, 1.3]), mode=st.sampled_from(MODES),
    seed=st.integers(0, 99), crop=st.sampled_from(["center", "squash", "border"]),
)  # fmt: skip
def test_an_image_is_prepared_as_timm_does(size, target, square, share, mode, seed, crop):
    channels, height, width = target
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    config = {
        "input_size": (channels, height, height if square else width), "crop_pct": share, "interpolation": mode,
        "mean": [0.45, 0.3, 0.6][:channels], "std": [0.3] * channels, "crop_mode": crop,
    }  # fmt: skip
    image = Image.fromarray(pixels)
    expected = create_transform(**resolve_data_config(config))(image.convert("L" if channels == 1 else "RGB"))
    made = prepare(image, config)
    assert made.dtype == np.float32 and np.array_equal(made, expected.numpy())


def test_what_a_backbone_does_not_say_is_timms():
    image = Image.fromarray(np.arange(300 * 260 * 3, dtype=np.uint8).reshape(300, 260, 3))
    expected = create_transform(**resolve_data_config({"input_size": (3, 224, 224)}))(image)
    assert np.array_equal(prepare(image, {"mean": None}), expected.numpy())
