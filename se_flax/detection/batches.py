"""Batches of images with boxes: resized, flipped, and padded to one of a few sizes."""

import dataclasses
import functools
from collections.abc import Iterator

import cv2
import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from se_flax import rng
from se_flax.data.batches import own_places, read_ahead
from se_flax.data.dataset import Inputs
from se_flax.data.preprocessing import Preprocessing
from se_flax.detection.annotations import AnnotatedImages, read_image
from se_flax.detection.order import GroupedOrder
from se_flax.detection.sizes import Sizes
from se_flax.errors import UserError
from se_flax.parallel import divisible, split_up


@flax.struct.dataclass
class HostBatch:
    """This host's share of a batch; a pytree.

    Attributes:
        images: resized, and padded below and to the right; see `normalized`.
        sizes: height and width of each image without padding, pixels.
        boxes: left, top, right and bottom of each true box, in pixels of the resized image; 0 where
            not valid.
        labels: class of each box, from 1; 0 where not valid.
        valid: whether there is a box, or padding.
        places: index of each image in its source.
        mask: False for images that only pad a batch of an evaluation.
    """

    images: UInt8[np.ndarray, "b h w 3"]
    sizes: Float[np.ndarray, "b 2"]
    boxes: Float[np.ndarray, "b g 4"]
    labels: Int[np.ndarray, "b g"]
    valid: Bool[np.ndarray, "b g"]
    places: Int[np.ndarray, " b"]
    mask: Bool[np.ndarray, " b"]

    def by_device(self) -> "HostBatch":
        """Splits the batch among the local devices: arrays [devices, b / devices, ...]."""
        return split_up(self)


def normalized(
    images: UInt8[Array, "b h w 3"],
    sizes: Float[Array, "b 2"],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> Float[Array, "b h w 3"]:
    """Returns (x / 255 - mean) / std, and 0 in the padding; runs inside the jitted step.

    Args:
        images, sizes: see `HostBatch`.
        mean, std: of each channel, on a scale of 0 to 1.
    """
    rows = jnp.arange(images.shape[1]) < sizes[:, :1]
    columns = jnp.arange(images.shape[2]) < sizes[:, 1:]
    inside = rows[:, :, None, None] & columns[:, None, :, None]
    return jnp.where(inside, Preprocessing(mean, std).normalize(images), 0)


def prepare(
    image: UInt8[np.ndarray, "h w 3"],
    boxes: Float[np.ndarray, "k 4"],
    size: Int[np.ndarray, "2"],
    flip: bool,
    out: UInt8[np.ndarray, "padded_h padded_w 3"],
) -> Float[np.ndarray, "k 4"]:
    """Flips and resizes an image with its boxes; returns the boxes.

    The interpolation is bilinear without antialiasing, like that of torchvision's detectors, except
    that values are whole numbers. They differ by less than 1 from torchvision's, and by 0.3 on
    average.

    Args:
        image: the image.
        boxes: left, top, right and bottom of each box, pixels of the image.
        size: height and width after resizing, pixels.
        flip: whether left and right are exchanged.
        out: zeros, of which a part is overwritten by the resized image.
    """
    height, width = image.shape[:2]
    new_height, new_width = size.tolist()
    if flip:
        image = image[:, ::-1]
        boxes = np.stack(
            [width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1
        )
    out[:new_height, :new_width] = cv2.resize(
        np.ascontiguousarray(image), (new_width, new_height), interpolation=cv2.INTER_LINEAR
    )
    ratios = np.float32([new_width, new_height] * 2) / np.float32([width, height] * 2)
    return boxes * ratios


@dataclasses.dataclass(frozen=True, eq=False)
class _Batches:
    """Batches as a sequence, which Grain prefetches; a subclass says which images are in each."""

    source: AnnotatedImages
    sizes: Sizes
    max_boxes: int  # places for boxes of an image
    batch_size: int  # over all hosts
    first: int  # start of this host's share in a batch
    share: int  # number of images in this host's share

    @functools.cached_property
    def resized(self) -> Int[np.ndarray, "n 2"]:
        """Height and width of each image after resizing."""
        return self.sizes.resized(self.source.annotations.sizes)

    @property
    def num_bytes(self) -> int:
        """Size of the images of the largest batch."""
        height, width = self.sizes.padded[-1]
        return self.share * height * width * 3

    def read(
        self, group: int, places: Int[np.ndarray, " all"], flips: Bool[np.ndarray, " all"]
    ) -> HostBatch:
        """Returns this host's share of a batch; fewer places than `batch_size` are padded."""
        own = slice(self.first, self.first + self.share)
        places, flips = places[own], flips[own]
        b, g = self.share, self.max_boxes
        batch = HostBatch(
            images=np.zeros((b, *self.sizes.padded[group], 3), np.uint8),
            sizes=np.ones((b, 2), np.float32),
            boxes=np.zeros((b, g, 4), np.float32),
            labels=np.zeros((b, g), np.int32),
            valid=np.zeros((b, g), bool),
            places=np.zeros(b, np.int32),
            mask=np.arange(b) < len(places),
        )
        for k, (place, flip) in enumerate(zip(places.tolist(), flips.tolist(), strict=True)):
            boxes, labels = self.source.annotations.truth(place)
            boxes = prepare(
                read_image(self.source, place), boxes, self.resized[place], flip, batch.images[k]
            )
            kept = slice(len(boxes))
            batch.boxes[k, kept], batch.labels[k, kept], batch.valid[k, kept] = boxes, labels, True
            batch.sizes[k], batch.places[k] = self.resized[place], place
        return batch


@dataclasses.dataclass(frozen=True, eq=False)
class _TrainBatches(_Batches):
    count: int  # number of batches
    order: GroupedOrder
    horizontal_flip: bool

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> HostBatch:
        group, places = self.order.batch(i)
        generator = rng.generator(self.order.seed, rng.Stream.FLIP, i)
        flips = (generator.random(self.batch_size) < 0.5) & self.horizontal_flip  # for all hosts
        return self.read(group, places, flips)


@dataclasses.dataclass(frozen=True, eq=False)
class _EvalBatches(_Batches):
    @functools.cached_property
    def members(self) -> list[tuple[int, Int[np.ndarray, " _"]]]:
        """Group and images of each batch."""
        groups = self.sizes.groups(self.source.annotations.sizes)
        result = []
        for group in np.unique(groups).tolist():
            images = np.flatnonzero(groups == group)
            starts = range(0, len(images), self.batch_size)
            result += [(group, images[start : start + self.batch_size]) for start in starts]
        return result

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, i: int) -> HostBatch:
        group, places = self.members[i]
        return self.read(group, places, np.zeros(len(places), bool))


def train_batches(
    source: AnnotatedImages,
    sizes: Sizes,
    batch_size: int,
    seed: int,
    first_step: int,
    total_steps: int,
    *,
    horizontal_flip: bool = True,
    max_boxes: int = 0,
    workers: int = 0,
    streams: int = 1,
) -> Iterator[HostBatch]:
    """Yields this host's share of the batches from step `first_step` to the end of the run.

    All images of a batch are padded to the same size. Which images are in it, and which of them are
    flipped, is a function of (seed, step), and does not depend on the number of hosts, workers or
    interruptions; see `GroupedOrder`.

    Args:
        source: the images; see `annotations.with_boxes`.
        sizes: to which the images are resized and padded.
        batch_size: total batch size, over all hosts.
        seed: seed of the order and flips.
        first_step: the first step, counted from 0.
        total_steps: length of the run, in steps; the last step is total_steps - 1.
        horizontal_flip: whether to flip images with probability 1/2.
        max_boxes: number of places for the boxes of an image; 0 for the most boxes of an image.
        workers, streams: see `se_flax.data.streaming.train_batches`.

    Raises:
        UserError: if an image has more boxes than places for them.
    """
    max_boxes = _places_for_boxes(source, max_boxes)
    order = GroupedOrder(sizes.groups(source.annotations.sizes), batch_size, seed)
    batches = _TrainBatches(
        source, sizes, max_boxes, batch_size, *own_places(batch_size),
        total_steps, order, horizontal_flip,
    )  # fmt: skip
    yield from read_ahead(batches, first_step, workers, streams)


class EvalFeed:
    """Evaluation batches, which contain every image of a source exactly once (see `dataset`).

    Images with the same padded size follow each other. The last batch of each size is padded with
    masked images.

    Args:
        source: the images.
        sizes: to which they are resized and padded.
        batch_size: over all devices; rounded up to a multiple of their number.
        max_boxes: see `train_batches`.
        workers: see `se_flax.data.streaming.train_batches`.
    """

    def __init__(
        self,
        source: AnnotatedImages,
        sizes: Sizes,
        batch_size: int,
        max_boxes: int = 0,
        workers: int = 0,
    ):
        batch_size = divisible(min(batch_size, len(source)))
        max_boxes = _places_for_boxes(source, max_boxes)
        self._batches = _EvalBatches(source, sizes, max_boxes, batch_size, *own_places(batch_size))
        self._workers = workers

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Inputs]:
        for batch in read_ahead(self._batches, workers=self._workers):
            yield None, batch.by_device()


def _places_for_boxes(source: AnnotatedImages, max_boxes: int) -> int:
    most = int(source.annotations.trained_per_image.max())
    if max_boxes and most > max_boxes:
        i = int(np.argmax(source.annotations.trained_per_image))
        raise UserError(
            f"{source.describe(i)} has {most} boxes, but there are places for {max_boxes}; use at "
            f"least max_boxes={most}"
        )
    return max_boxes or max(1, most)
