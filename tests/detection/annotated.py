"""Images with boxes that the tests make up."""

import jax
import numpy as np

from se_flax.detection.annotations import Annotations, Categories


def joined(own):
    """Returns arrays [devices, b, ...] as arrays [devices * b, ...] on the host."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), jax.device_get(own))


CATEGORIES = Categories((3, 5, 8), ("ant", "bee", "cow"))


class Pictures:
    """Images of given sizes; image i has the value i, a few boxes at random and the id 100 + i."""

    categories = CATEGORIES

    def __init__(self, sizes, seed=0, least=1, most=4):
        self.generator = np.random.default_rng(seed)
        sizes = np.array(sizes, np.int32)
        per_image = self.generator.integers(least, most + 1, len(sizes))
        extent = np.repeat(sizes[:, ::-1], per_image, axis=0)
        corner = self.generator.uniform(0, 0.6, extent.shape) * extent
        sides = self.generator.uniform(0.1, 0.4, extent.shape) * extent
        self.annotations = Annotations(
            image_ids=tuple(range(100, 100 + len(sizes))),
            sizes=sizes,
            starts=np.concatenate([[0], np.cumsum(per_image)]),
            rectangles=np.concatenate([corner, sides], axis=1),
            areas=sides.prod(axis=1),
            labels=self.generator.integers(1, 4, len(extent)).astype(np.int32),
            crowds=np.zeros(len(extent), bool),
        )

    def __len__(self):
        return len(self.annotations)

    def __getitem__(self, i):
        return np.full((*self.annotations.sizes[i], 1), i, np.uint8)

    def describe(self, i):
        return f"picture {i}"


class Noise(Pictures):
    """As `Pictures`, but image i is noise that no other image has."""

    def __getitem__(self, i):
        shape = (*self.annotations.sizes[i], 3)
        return np.random.default_rng(i).integers(0, 256, shape, np.uint8)
