"""Images that do not fit in memory, read as they are needed."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Int, UInt8

from se_flax.data.images import decode

# Images [b, size, size, 3], labels [b] and which of them count [b].
HostBatch = tuple[UInt8[np.ndarray, "b size size 3"], Int[np.ndarray, " b"], Bool[np.ndarray, " b"]]


class ImageSource(Protocol):
    """Labelled images, one at a time, in any order.

    Attributes:
        class_names: one a class.
    """

    class_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Returns `image`, encoded or uint8 [h, w, 1 or 3], and `label`, from 0."""


def eval_batches(
    source: ImageSource,
    transform: Callable[[UInt8[np.ndarray, "h w 3"]], UInt8[np.ndarray, "size size 3"]],
    batch_size: int,
) -> Iterator[
    tuple[UInt8[np.ndarray, "b size size 3"], Int[np.ndarray, " b"], Bool[np.ndarray, " b"]]
]:
    """Yields images, labels and mask of every image once, in order, several read ahead.

    The last batch is filled up with what the mask does not count.
    """
    import grain

    def example(record: dict[str, Any]) -> tuple[np.ndarray, np.int32]:
        return transform(decode(record["image"])), np.int32(record["label"])

    batches = (
        grain.MapDataset.source(source)
        .map(example)
        .to_iter_dataset(grain.ReadOptions(num_threads=16, prefetch_buffer_size=2 * batch_size))
        .batch(batch_size, drop_remainder=False)
    )
    for images, labels in batches:
        missing = batch_size - len(labels)
        mask = np.arange(batch_size) < len(labels)
        images = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
        yield images, np.pad(labels, (0, missing)), mask
