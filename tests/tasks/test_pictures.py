"""The pixels of encoded images: random crops to learn from, centre crops to measure by."""

import io
import math
import re
from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rewire.tasks.pictures import Picture, centre_crop, random_box, random_crop

torch.set_num_threads(1)

RED, BLUE = (255, 0, 0), (0, 0, 255)


def encoded(image: Image.Image, format: str = "PNG") -> Picture:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return Picture("made up", buffer.getvalue(), 3)


def ramp(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downward, by one a pixel."""
    image = Image.new("RGB", (width, height))
    image.putdata([(x, y, 0) for y in range(height) for x in range(width)])
    return image


def test_the_centre_of_a_wide_image_by_hand() -> None:
    """A shorter side of 8 pixels is 8 / 0.875 of 7 = 8 pixels already, so the crop is pixels 4 to 10 of 16."""
    found = centre_crop(encoded(ramp(16, 8)), 7)
    assert found.dtype == torch.uint8
    assert found[0].tolist() == [list(range(4, 11))] * 7
    assert found[1].tolist() == [[row] * 7 for row in range(7)]


def test_the_centre_of_imagenet_is_224_of_256_pixels() -> None:
    """At twice the size: the crop's edges are 16 of 256 pixels away from the image's, 32 of 512."""
    image = Image.new("RGB", (512, 512), RED)
    image.paste(BLUE, (32, 32, 480, 480))
    inner = centre_crop(encoded(image), 224)[:, 1:-1, 1:-1]
    assert torch.equal(inner, torch.tensor(BLUE, dtype=torch.uint8).reshape(3, 1, 1).expand_as(inner))
    image.paste(RED, (36, 36, 476, 476))
    assert centre_crop(encoded(image), 224)[2, 112, :2].min() > 100, "the blue frame, two pixels wide, is the edge"


@pytest.mark.parametrize("size", [(5, 40), (40, 5), (1, 1), (3, 300)])
def test_images_of_any_shape_become_squares(size: tuple[int, int]) -> None:
    picture = encoded(Image.new("RGB", size, BLUE))
    for found in (centre_crop(picture, 6), *(random_crop(picture, 6, Random(seed)) for seed in range(5))):
        assert found.shape == (3, 6, 6)
        assert found.flatten(1).unique(dim=1).flatten().tolist() == list(BLUE)


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 10**6))
def test_a_random_box_lies_in_the_image(width: int, height: int, seed: int) -> None:
    left, upper, right, lower = random_box(width, height, Random(seed))
    assert 0 <= left < right <= width
    assert 0 <= upper < lower <= height


def test_areas_and_aspects_fill_their_ranges_and_places_the_image() -> None:
    draws, boxes = Random(0), []
    for _ in range(3000):
        left, upper, right, lower = random_box(1000, 1000, draws)
        boxes.append(
            (left, upper, right, lower, (right - left) * (lower - upper) / 1e6, (right - left) / (lower - upper))
        )
    lefts, uppers, rights, lowers, areas, aspects = zip(*boxes, strict=True)
    assert min(areas) == pytest.approx(0.08, abs=0.01)
    assert 0.97 < max(areas) <= 1.001
    assert min(aspects) == pytest.approx(3 / 4, abs=0.01)
    assert max(aspects) == pytest.approx(4 / 3, abs=0.01)
    assert abs(sum(map(math.log, aspects))) / 3000 < 0.01, "as often wide as high"
    assert min(lefts) == min(uppers) == 0
    assert max(rights) == max(lowers) == 1000
    assert len({left for left, *_ in boxes}) > 300


def test_a_long_image_gives_its_middle() -> None:
    """No crop of at least 8 % of 10 x 1000 pixels with a side ratio below 4:3 fits into 10 pixels."""
    assert random_box(10, 1000, Random(1)) == (0, 493, 10, 506)
    assert random_box(1000, 10, Random(1)) == (493, 0, 506, 10)


def test_half_of_the_crops_are_mirrored() -> None:
    """On a ramp a crop's red falls to the right exactly where it was mirrored; its green never falls downward."""
    picture = encoded(ramp(64, 64))
    found = torch.stack([random_crop(picture, 8, Random(seed)) for seed in range(200)]).int()
    across = found[:, 0, 0].diff().sign().sum(1).sign()
    assert set(across.tolist()) == {-1, 1}
    assert 70 < int((across == 1).sum()) < 130
    assert bool((found[:, 1].diff(dim=1) >= 0).all())


def test_a_crop_is_a_matter_of_its_seed() -> None:
    picture = encoded(ramp(64, 64))
    first, again, other = (random_crop(picture, 8, Random(seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("mode", "format"), [("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("1", "PNG")]
)
def test_images_of_all_kinds_become_rgb(mode: str, format: str) -> None:
    assert centre_crop(encoded(Image.new(mode, (8, 8)), format), 4).shape == (3, 4, 4)


@pytest.mark.parametrize("kept", [0, 10, 60])
def test_what_is_no_image_is_named(kept: int) -> None:
    whole = encoded(Image.effect_noise((64, 64), 50).convert("RGB"))
    broken = Picture("train/cat/1.png", whole.content[:kept], 0)
    message = r"^train/cat/1\.png cannot be read as an image: .*\. Replace it or take it out of its folder\.$"
    with pytest.raises(ValueError, match=message):
        centre_crop(broken, 8)
    with pytest.raises(ValueError, match=re.escape("no/such.png cannot be read as an image: ")):
        random_crop(Picture("no/such.png", None, 0), 8, Random(0))
