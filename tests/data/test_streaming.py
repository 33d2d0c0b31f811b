import numpy as np
import pytest

from se_flax.data.streaming import eval_batches


class Numbers:
    """Image i is of the colour i, and of class i % 3."""

    class_names = ("a", "b", "c")

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        return {"image": np.full((4, 5, 1), i, np.uint8), "label": i % 3}


@pytest.mark.parametrize("size", [1, 7, 8, 9, 100])
def test_every_image_is_evaluated_once_and_in_order(size):
    batches = list(eval_batches(Numbers(size), lambda image: image[:2, :2], batch_size=8))
    assert {images.shape for images, _, _ in batches} == {(8, 2, 2, 3)}
    counted = [(images[mask], labels[mask]) for images, labels, mask in batches]
    images, labels = (np.concatenate(parts) for parts in zip(*counted, strict=True))
    np.testing.assert_array_equal(images[:, 0, 0, 0], np.arange(size))
    np.testing.assert_array_equal(labels, np.arange(size) % 3)
