"""Generated images of coloured shapes with their boxes, for trying out a detector in minutes."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from se_flax import rng
from se_flax.detection.annotations import Annotations, Categories
from se_flax.detection.preparation import resize
from se_flax.errors import UserError

GENERATED = "shapes"  # their name in `config.dataset.name`
_NAMES = ("circle", "square", "triangle", "star", "cross")
_CATEGORIES = Categories(tuple(range(1, len(_NAMES) + 1)), _NAMES)
_SPLITS = ("train", "test")  # the index is the seed

_MOST_SHAPES = 5
_RADII = (0.07, 0.22)  # of the circle around a shape, as parts of the image's side
_LEAST_VISIBLE = 0.5
_TURN = 0.25  # tangent of half the largest angle: 28 degrees
# Levels of shapes are outside those of the background, in each channel.
_DARK, _BACKGROUND, _LIGHT = (0, 56), (80, 176), (200, 256)
_SPOTS = 6  # random colours in a row and in a column of the background
_NOISE = 10  # largest change of a level at a pixel

_Mask = Bool[np.ndarray, "h w"]

# Unit vectors to the tips of a star, rounded so that they are the same on all machines.
_TIPS = np.round([(np.sin(a), -np.cos(a)) for a in np.arange(5) * (2 * np.pi / 5)], 6)
_TO_EDGE = 0.309017  # from the centre of a star to the lines between its tips: cos(72 degrees)


class _Layout(NamedTuple):
    """Attributes: for each pixel the number of its shape, from 1, or 0; the shapes' classes."""

    owners: UInt8[np.ndarray, "size size"]
    labels: list[int]


@dataclasses.dataclass(frozen=True, eq=False)
class Shapes:
    """Images with 1 to 5 filled shapes on a background of smooth noise (see `AnnotatedImages`).

    The classes are circle, square, triangle, star and cross. Class, size, angle, colour and place
    of a shape are random. Later shapes hide parts of earlier ones, but at least half of each shape
    is visible. A box is tight around the visible pixels, whose number is the object's area.

    An image depends on its split, index and size alone, and has the same bits on all machines. It
    is drawn when it is read.

    Attributes:
        split: "train" or "test". No image is in both.
        count: number of images.
        size: height and width of the images, pixels.

    Raises:
        UserError: if there is no such split, or the count or size is too small.
    """

    split: str
    count: int
    size: int = 128

    def __post_init__(self):
        if self.split not in _SPLITS:
            raise UserError(f'the shapes have no split "{self.split}"; use "train" or "test"')
        if self.count < 1:
            raise UserError(f"the number of images must be at least 1, not {self.count}")
        if self.size < 32:
            raise UserError(
                f"images of {self.size} x {self.size} pixels are too small for shapes; use a size "
                "of at least 32"
            )

    @property
    def categories(self) -> Categories:
        """The classes."""
        return _CATEGORIES

    @functools.cached_property
    def annotations(self) -> Annotations:
        """The boxes, and the images' sizes. Computing them takes about a millisecond an image."""
        labels, rectangles, areas, per_image = [], [], [], []
        for i in range(self.count):
            owners, of_image = _layout(self._generator(i), self.size)
            labels += of_image
            per_image.append(len(of_image))
            for number in range(1, len(of_image) + 1):
                visible = owners == number
                rectangles.append(_rectangle(visible))
                areas.append(np.count_nonzero(visible))
        return Annotations(
            image_ids=tuple(range(self.count)),
            sizes=np.full((self.count, 2), self.size, np.int32),
            starts=np.concatenate([[0], np.cumsum(per_image)]),
            rectangles=np.array(rectangles, np.float64),
            areas=np.array(areas, np.float64),
            labels=np.array(labels, np.int32),
            crowds=np.zeros(len(labels), bool),
        )

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> UInt8[np.ndarray, "size size 3"]:
        generator = self._generator(i)
        owners, labels = _layout(generator, self.size)
        spots = generator.integers(*_BACKGROUND, (_SPOTS, _SPOTS, 3))
        image = resize(spots.astype(np.float32), (self.size, self.size)).astype(np.int16)
        for number in range(1, len(labels) + 1):
            image[owners == number] = _colour(generator)
        image += generator.integers(-_NOISE, _NOISE, image.shape, np.int16, endpoint=True)
        return np.clip(image, 0, 255).astype(np.uint8)

    def describe(self, i: int) -> str:
        """Returns a description of image i, for messages."""
        return f"{self.split} image {i} of the shapes"

    def _generator(self, i: int) -> np.random.Generator:
        if not 0 <= i < self.count:
            raise IndexError(i)
        return rng.generator(_SPLITS.index(self.split), rng.Stream.SHAPES, i)


def shapes(train: int = 2000, test: int = 500, size: int = 128) -> tuple[Shapes, Shapes]:
    """Returns generated training and test images; see `Shapes`.

    Args:
        train, test: numbers of images.
        size: height and width, pixels.

    Raises:
        UserError: if a number or the size is too small.
    """
    return Shapes("train", train, size), Shapes("test", test, size)


def _layout(generator: np.random.Generator, size: int) -> _Layout:
    """Draws the classes and places of the shapes of an image."""
    owners = np.zeros((size, size), np.uint8)
    labels: list[int] = []
    pixels = np.zeros(0, np.int64)  # of each shape in full
    for number in range(1, int(generator.integers(1, _MOST_SHAPES, endpoint=True)) + 1):
        while True:
            label, mask = _shape(generator, size)
            new = np.where(mask, np.uint8(number), owners)
            visible = np.bincount(new.ravel(), minlength=number + 1)[1:number]
            if (visible >= _LEAST_VISIBLE * pixels).all():
                break
        owners, labels = new, [*labels, label]
        pixels = np.append(pixels, np.count_nonzero(mask))
    return _Layout(owners, labels)


def _shape(generator: np.random.Generator, size: int) -> tuple[int, _Mask]:
    """Draws the class of a shape and the pixels it covers."""
    label = int(generator.integers(1, len(_NAMES), endpoint=True))
    radius = generator.uniform(*_RADII) * size
    x0, y0 = generator.uniform(radius, size - radius, 2)
    # The angle's cosine and sine, from the tangent of its half, are the same on all machines.
    t = generator.uniform(-_TURN, _TURN)
    cos, sin = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    x = (np.arange(size) + 0.5 - x0) / radius
    y = ((np.arange(size) + 0.5 - y0) / radius)[:, None]
    return label, _is_inside(_NAMES[label - 1], cos * x + sin * y, cos * y - sin * x)


def _is_inside(name: str, x: Float[np.ndarray, "h w"], y: Float[np.ndarray, "h w"]) -> _Mask:
    """Returns which points are inside a shape in the unit circle; y is downwards."""
    if name == "circle":
        return x * x + y * y <= 1
    if name == "square":
        return np.maximum(abs(x), abs(y)) <= np.sqrt(0.5)
    if name == "triangle":  # equilateral
        return (y <= 0.5) & (np.sqrt(3) * abs(x) - y <= 1)
    if name == "star":  # behind at most one of the lines between its tips
        return sum((x * to_x + y * to_y <= _TO_EDGE).astype(int) for to_x, to_y in _TIPS) >= 4
    return (np.minimum(abs(x), abs(y)) <= 0.3) & (np.maximum(abs(x), abs(y)) <= 0.95)


def _rectangle(mask: _Mask) -> tuple[int, int, int, int]:
    """Returns left, top, width and height of the pixels that are set."""
    columns, rows = (np.flatnonzero(mask.any(axis=axis)) for axis in (0, 1))
    left, top = int(columns[0]), int(rows[0])
    return left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top


def _colour(generator: np.random.Generator) -> Int[np.ndarray, "3"]:
    """Draws a colour that differs from every background in each channel."""
    low, high = np.array([_DARK, _LIGHT])[generator.integers(2, size=3)].T
    return generator.integers(low, high)
