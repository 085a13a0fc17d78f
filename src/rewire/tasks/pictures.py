"""The pixels of encoded images: random crops to learn from, centre crops to measure by. The one door to Pillow."""

import io
import math
from random import Random
from types import ModuleType
from typing import Any, NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor

# Share of the image's area and width over height of a random crop, and how often both are drawn until it fits.
AREA, ASPECT, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10
CENTRE = 0.875  # side of the centre crop over the shorter side of the image, 224 of 256 pixels


class Picture(NamedTuple):
    """A labelled image that is still encoded. content: None where it is in the file of that name."""

    name: str
    content: bytes | None
    label: int


def pillow() -> ModuleType:
    """Pillow's image module. Raises ImportError with what to type where it is missing."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            'Images cannot be read: that is the work of Pillow, which is not installed. Type: pip install "rewire[cli]"'
        ) from error
    return Image


def opened(picture: Picture) -> Any:
    """The picture as a Pillow image in RGB. Raises ValueError, with its name, where it cannot be read."""
    file = picture.name if picture.content is None else io.BytesIO(picture.content)
    try:
        with pillow().open(file) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:  # Pillow has a SyntaxError of its own for a broken PNG
        raise ValueError(
            f"{picture.name} cannot be read as an image: {error}. Replace it or take it out of its folder."
        ) from error


def random_crop(picture: Picture, size: int, draws: Random) -> UInt8[Tensor, "3 {size} {size}"]:
    """A crop at random, resized to size x size pixels and mirrored half of the time.

    Reference: C. Szegedy et al., "Going Deeper with Convolutions", CVPR 2015, section 6,
    https://arxiv.org/abs/1409.4842
    """
    image = opened(picture)
    box = random_box(image.width, image.height, draws)
    crop = pixels(image.crop(box).resize((size, size), pillow().Resampling.BILINEAR))
    return crop.flip(2) if draws.random() < 0.5 else crop


def random_box(width: int, height: int, draws: Random) -> tuple[int, int, int, int]:
    """Left, upper, right and lower edge of a crop of an image, in pixels.

    Where no crop that was drawn fits, as may happen to an image that is very long, it is the largest one in the middle.
    """
    for _ in range(TRIES):
        area = draws.uniform(*AREA) * width * height
        aspect = math.exp(draws.uniform(*map(math.log, ASPECT)))
        across, down = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < across <= width and 0 < down <= height:
            left, upper = draws.randint(0, width - across), draws.randint(0, height - down)
            return left, upper, left + across, upper + down
    across, down = min(width, round(height * ASPECT[1])), min(height, round(width / ASPECT[0]))
    left, upper = (width - across) // 2, (height - down) // 2
    return left, upper, left + across, upper + down


def centre_crop(picture: Picture, size: int) -> UInt8[Tensor, "3 {size} {size}"]:
    """The middle of the picture, whose shorter side is resized to size / 0.875 pixels first."""
    image = opened(picture)
    scale = round(size / CENTRE) / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    left, upper = (width - size) // 2, (height - size) // 2
    whole = image.resize((width, height), pillow().Resampling.BILINEAR)
    return pixels(whole.crop((left, upper, left + size, upper + size)))


def square(picture: Picture, size: int) -> UInt8[Tensor, "3 {size} {size}"]:
    """The largest square in the middle of the picture, resized; for small images, whose edges count."""
    image = opened(picture)
    side = min(image.size)
    left, upper = (image.width - side) / 2, (image.height - side) / 2
    box = (left, upper, left + side, upper + side)
    return pixels(image.resize((size, size), pillow().Resampling.BICUBIC, box))


def pixels(image: Any) -> UInt8[Tensor, "3 height width"]:
    """The pixels of a Pillow image in RGB."""
    content = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return content.reshape(image.height, image.width, 3).permute(2, 0, 1)
