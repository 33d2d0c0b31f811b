"""A data set of images with boxes, as a run reads it."""

import dataclasses
from typing import ClassVar

from se_flax.data.dataset import held_out, present
from se_flax.data.streaming import StreamedTrainFeed
from se_flax.detection.annotations import AnnotatedImages, Subset, with_boxes
from se_flax.detection.batches import EvalFeed, train_batches
from se_flax.detection.sizes import Sizes
from se_flax.models.registry import IMAGENET_MEAN, IMAGENET_STD


@dataclasses.dataclass(frozen=True)
class DetectionDataset:
    """Images with boxes that are read when needed.

    It has what a run needs of a data set (`se_flax.data.dataset.RunDataset`).

    Attributes:
        name: name of the data set.
        train: training images, all with boxes; see `of`.
        test: images for evaluation.
        sizes: to which all images are resized and padded.
        mean, std: mean and standard deviation of each channel, on a scale of 0 to 1.
        horizontal_flip: whether training images are flipped with probability 1/2.
        workers: number of processes that read images; 0 reads in threads.
        validation: images that were held out of `train`, if any.
    """

    name: str
    train: AnnotatedImages
    test: AnnotatedImages
    sizes: Sizes = dataclasses.field(default_factory=Sizes)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    horizontal_flip: bool = True
    workers: int = 0
    validation: AnnotatedImages | None = None
    on_device: ClassVar[bool] = False

    @classmethod
    def of(
        cls, name: str, train: AnnotatedImages, test: AnnotatedImages, **fields
    ) -> "DetectionDataset":
        """Creates a data set of all images; those without boxes are not trained on.

        Args:
            name, train, test: see the attributes.
            **fields: the other attributes.

        Raises:
            UserError: if no training image has a box.
        """
        return cls(name, with_boxes(train), test, **fields)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, without the background, which is class 0."""
        return self.train.categories.names

    @property
    def num_classes(self) -> int:
        """Number of classes, including the background."""
        return self.train.categories.num_classes

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the smallest of the padded images."""
        return (*self.sizes.padded[0], 3)

    @property
    def splits(self) -> dict[str, AnnotatedImages]:
        """The existing splits by name."""
        return present(train=self.train, validation=self.validation, test=self.test)

    def hold_out(self, fraction: float) -> "DetectionDataset":
        """Returns a data set with part of `train` in `validation`; see `dataset.held_out`."""
        kept, held = held_out(self.name, self.splits, fraction)
        return dataclasses.replace(
            self, train=Subset(self.train, kept), validation=Subset(self.train, held)
        )

    def train_feed(
        self, batch_size: int, seed: int, total_steps: int, num_feeds: int = 1
    ) -> StreamedTrainFeed:
        """Returns the inputs of a run's training steps; see `dataset.ImageDataset`."""

        def batches_from(step):
            return train_batches(
                self.train, self.sizes, batch_size, seed, step, total_steps,
                horizontal_flip=self.horizontal_flip, workers=self.workers, streams=num_feeds,
            )  # fmt: skip

        return StreamedTrainFeed(batches_from)

    def eval_feed(self, split: str, batch_size: int) -> EvalFeed:
        """Returns the inputs of an evaluation of a split; see `EvalFeed`."""
        return EvalFeed(self.splits[split], self.sizes, batch_size, workers=self.workers)
