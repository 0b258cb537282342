"""`regrnn.tasks.captioning.images`: every kind of picture becomes RGB by the stated rule, or is refused by name."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regrnn.errors import RegrnnError
from regrnn.tasks.captioning.encoders import scaled_pixels
from regrnn.tasks.captioning.images import open_image, to_rgb


def saved(tmp_path: Path, image: Any, suffix: str, **options: object) -> Any:
    path = tmp_path / f"picture{suffix}"
    image.save(path, **options)
    opened = open_image(path)
    assert opened.mode == "RGB"
    assert opened.size == image.size
    return np.asarray(opened).astype(int)


def test_greyscale_becomes_three_equal_channels(tmp_path: Path) -> None:
    values = np.arange(0, 250, 10, dtype=np.uint8).reshape(5, 5)
    pixels = saved(tmp_path, Image.fromarray(values), ".png")
    assert (pixels == values[:, :, None]).all()


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)
    pixels = saved(tmp_path, Image.fromarray(values), ".png")
    assert pixels[:, :, 0].tolist() == [[0, 100], [200, 255]]


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_floating_point_is_scaled_by_its_white(tmp_path: Path, scale: float) -> None:
    values = np.array([[0.0, 0.2], [0.6, 1.0]], np.float32) * scale
    pixels = saved(tmp_path, Image.fromarray(values), ".tiff")
    assert pixels[:, :, 1].tolist() == [[0, 51], [153, 255]]


def test_cmyk_is_converted(tmp_path: Path) -> None:
    pixels = saved(tmp_path, Image.new("CMYK", (4, 3), (0, 255, 255, 0)), ".tiff")
    assert (pixels == [255, 0, 0]).all()


def test_what_is_transparent_shows_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 255, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    assert saved(tmp_path, image, ".png").tolist() == [[[0, 0, 255], [255, 255, 255]]]
    grey = Image.new("LA", (2, 1), (0, 255))
    grey.putpixel((1, 0), (0, 0))
    assert saved(tmp_path, grey, ".png").tolist() == [[[0, 0, 0], [255, 255, 255]]]


def test_a_palette_with_alpha_shows_white_too(tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    for place in range(3):
        image.putpixel((place, 0), place)
    assert saved(tmp_path, image, ".png").tolist() == [[[255, 0, 0], [0, 255, 0], [0, 0, 255]]]
    assert saved(tmp_path, image, ".png", transparency=1).tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]


def test_a_photograph_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 1), (255, 255, 255))
    image.putpixel((0, 0), (0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    path = tmp_path / "turned.png"
    image.save(path, exif=exif)
    assert np.asarray(open_image(path)).tolist() == [[[0, 0, 0]], [[255, 255, 255]]]


def test_a_single_pixel_is_a_plain_colour(tmp_path: Path) -> None:
    path = tmp_path / "pixel.png"
    Image.new("RGB", (1, 1), (255, 127, 63)).save(path)
    pixels = scaled_pixels(open_image(path), size=5)
    assert pixels.shape == (1, 3, 5, 5)
    for channel, value in enumerate([1.0, 0.0, -0.5]):
        assert (pixels[0, channel] == value).all()


def test_the_first_frame_of_an_animation_is_taken() -> None:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("#ff0000", "#0000ff")]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(to_rgb(Image.open(buffer))).reshape(-1, 3)[0].tolist() == [255, 0, 0]


def test_what_is_no_picture_is_refused_by_name(tmp_path: Path) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("not a picture")
    with pytest.raises(RegrnnError, match=r"text\.jpg: not a picture that can be read"):
        open_image(text)
    whole = tmp_path / "whole.jpg"
    Image.effect_noise((64, 64), 50).save(whole)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(whole.read_bytes()[:-400])
    with pytest.raises(RegrnnError, match=r"cut\.jpg: not a picture that can be read \(.*truncated"):
        open_image(cut)
    empty = tmp_path / "empty.png"
    empty.touch()
    with pytest.raises(RegrnnError, match=r"empty\.png: not a picture"):
        open_image(empty)
    with pytest.raises(RegrnnError, match=r"none\.png: no such file"):
        open_image(tmp_path / "none.png")
    with pytest.raises(RegrnnError, match="no such file"):
        open_image(tmp_path)


def test_an_absurd_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "big.png"
    Image.new("L", (40, 40)).save(path)
    for limit in (1000, 100):  # Pillow warns above the limit and raises above twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(RegrnnError, match="too many pixels"):
            open_image(path)
