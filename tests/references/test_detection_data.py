"""Compares how images of a detector are read with torchvision."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax.detection.average_precision import FoundInBatch, results_of
from se_flax.detection.batches import EvalFeed, normalized, prepare
from se_flax.detection.heads import Detections
from se_flax.detection.sizes import Sizes
from se_flax.models.registry import IMAGENET_MEAN, IMAGENET_STD
from tests.detection.annotated import Noise

pytestmark = pytest.mark.references


@pytest.fixture(scope="module")
def transform():
    from tests.references.torch_models import torchvision

    transforms = torchvision.models.detection.transform

    def make(sizes):
        mean, std = list(IMAGENET_MEAN), list(IMAGENET_STD)
        return transforms.GeneralizedRCNNTransform(sizes.short, sizes.long, mean, std).eval()

    return make


def tensor(image):
    import torch

    return torch.from_numpy(np.broadcast_to(image, (*image.shape[:2], 3)).copy())


def test_sizes_after_resizing_are_equal(transform):
    import torch

    sizes = Sizes(80, 133)
    sides = (20, 91, 333, 427, 480, 481, 500, 612, 640, 1333, 1999)
    shapes = np.array(list(itertools.product(sides, repeat=2)))
    expected = [
        transform(sizes).resize(torch.zeros(1, *shape), None)[0].shape[1:]
        for shape in shapes.tolist()
    ]
    np.testing.assert_array_equal(sizes.resized(shapes), expected)


@pytest.mark.parametrize("shape", [(480, 640), (640, 427), (96, 500), (1000, 1334), (1600, 1600)])
def test_resized_images_differ_by_less_than_a_level(transform, shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    sizes = Sizes()
    expected = transform(sizes).resize(tensor(image).permute(2, 0, 1).float(), None)[0]
    expected = expected.permute(1, 2, 0).numpy()
    (size,) = sizes.resized(np.array([shape]))
    out = np.zeros((*size, 3), np.uint8)
    prepare(image, np.zeros((0, 4), np.float32), size, False, out)
    difference = out - expected
    assert np.abs(difference).max() < 1
    assert np.abs(difference).mean() < 0.3  # that of the nearest levels is 0.25
    assert np.abs(difference.mean()) < 0.15


def test_batches_are_equal_and_boxes_return_to_the_image_alike(transform):
    import torch

    sizes = Sizes(64, 96, ())
    source = Noise([(40, 60), (64, 96), (90, 120), (30, 33)])
    ((_, own),) = EvalFeed(source, sizes, 4)
    batch = jax.tree.map(lambda x: x[0], own)
    truths = [torch.from_numpy(source.annotations.truth(i)[0]) for i in range(4)]
    theirs = transform(sizes)
    expected, targets = theirs(
        [tensor(source[i]).permute(2, 0, 1) / 255 for i in range(4)],
        [{"boxes": boxes} for boxes in truths],
    )
    np.testing.assert_array_equal(batch.sizes, expected.image_sizes)
    inputs = jnp.asarray(batch.images), jnp.asarray(batch.sizes)
    found = normalized(*inputs, IMAGENET_MEAN, IMAGENET_STD)
    images = expected.tensors.permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(found, images, rtol=0, atol=1 / 255 / min(IMAGENET_STD))
    assert ((np.asarray(found) == 0) == (images == 0)).mean() > 0.999
    for i, target in enumerate(targets):
        np.testing.assert_array_equal(batch.boxes[i][batch.valid[i]], target["boxes"])

    scores = np.ones(batch.valid.shape, np.float32)
    results = results_of(
        source,
        FoundInBatch(
            batch.places,
            batch.sizes,
            batch.mask,
            Detections(batch.boxes, scores, batch.labels, batch.valid),
        ),
    )
    originals = [tuple(size) for size in source.annotations.sizes.tolist()]
    returned = theirs.postprocess(
        [{"boxes": target["boxes"]} for target in targets], expected.image_sizes, originals
    )
    boxes = np.concatenate([each["boxes"].numpy() for each in returned])
    boxes[:, 2:] -= boxes[:, :2]
    np.testing.assert_array_equal([each["bbox"] for each in results], boxes)
