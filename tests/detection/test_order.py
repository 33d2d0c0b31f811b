import numpy as np
import pytest

from se_flax.detection.order import GroupedOrder

GROUPS = np.array([0] * 23 + [1] * 11 + [3] * 2, np.int32)  # no image has group 2


def by_collecting(groups, batch_size, seed, steps):
    """Returns the first batches by the definition, one image after the other."""
    waiting = {group: [] for group in groups}
    batches = []
    epoch = 0
    while len(batches) < steps:
        order = np.random.default_rng([1, seed, epoch]).permutation(len(groups))
        for image in order:
            of_group = waiting[groups[image]]
            of_group.append(image)
            if len(of_group) == batch_size:
                batches.append((groups[image], list(of_group)))
                of_group.clear()
        epoch += 1
    return batches[:steps]


@pytest.mark.parametrize("batch_size", [1, 2, 4, 16, 50])
@pytest.mark.parametrize("groups", [GROUPS, np.zeros(5, np.int32)])
def test_a_batch_has_the_next_images_of_its_group(groups, batch_size):
    expected = by_collecting(groups, batch_size, 5, 60)
    for step in (*range(30), 59):
        group, images = GroupedOrder(groups, batch_size, 5).batch(step)  # each time anew
        assert group == expected[step][0]
        np.testing.assert_array_equal(images, expected[step][1])


def test_in_the_long_run_every_image_is_used_equally_often():
    order = GroupedOrder(GROUPS, 4, 0)
    used = np.concatenate([order.batch(step)[1] for step in range(72)])  # eight epochs
    counts = np.bincount(used, minlength=len(GROUPS))
    assert set(counts) == {8}


def test_the_order_depends_on_the_seed():
    first, second = (GroupedOrder(GROUPS, 4, seed).batch(0)[1] for seed in (0, 1))
    assert not np.array_equal(first, second)
