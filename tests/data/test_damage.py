"""Images that turn out damaged only when they are decoded."""

import numpy as np
import pytest

from se_flax.data.damage import Damage
from se_flax.data.images import RandomResizedCrop
from se_flax.data.streaming import StreamedEvalFeed, host_images
from se_flax.errors import UserError
from tests.data.test_streaming import SMALL, Noise, Numbers, train


class Damaged(Numbers):
    """Numbers, of which some cannot be decoded."""

    def __init__(self, size, damaged):
        super().__init__(size)
        self.damaged = damaged

    def __getitem__(self, i):
        record = super().__getitem__(i)
        return {**record, "image": b"no image"} if i in self.damaged else record


class DamagedNoise(Damaged, Noise):
    pass


def colours(batches):
    return np.concatenate([batch.images[:, 0, 0, 0] for batch in batches])


def test_in_training_the_image_after_it_takes_its_place(capfd):
    whole, damaged = colours(train(Numbers(20), 0, 10)), train(Damaged(20, {3, 4, 19}), 0, 10)
    expected = np.select([whole == 3, whole == 4, whole == 19], [5, 5, 0], whole.astype(int))
    np.testing.assert_array_equal(colours(damaged), expected)
    np.testing.assert_array_equal(np.concatenate([batch.labels for batch in damaged]), expected % 3)
    assert all(batch.mask.all() for batch in damaged)
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 3  # once each, in four epochs
    assert all("the image after it takes its place" in line for line in said)
    assert any("number 19 (it is not an image or is damaged)" in line for line in said)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_that_is_resumed_replaces_it_in_the_same_way(workers, capfd):
    source, crop = DamagedNoise(30, {0, 7, 8, 29}), RandomResizedCrop(6)
    whole = train(source, 0, 12, crop=crop)
    later = train(source, 5, 12, crop=crop, workers=workers)
    for batch, expected in zip(later, whole[5:], strict=True):
        np.testing.assert_array_equal(batch.images, expected.images)
        np.testing.assert_array_equal(batch.labels, expected.labels)
    assert capfd.readouterr().err.count("number 29 ") == 2  # in each of the two runs


def test_in_evaluation_it_is_left_out_and_the_number_is_said_once(capfd):
    feed = StreamedEvalFeed(Damaged(37, {0, 20}), SMALL, 8)
    for _ in range(2):
        batches = [own for _, own in feed]
        seen = [
            batch.images.reshape(-1, 2, 2, 3)[batch.mask.reshape(-1), 0, 0, 0] for batch in batches
        ]
        assert np.concatenate(seen).tolist() == [i for i in range(37) if i not in (0, 20)]
    said = capfd.readouterr().err.splitlines()
    assert [line for line in said if "number 20" in line] == [
        "damaged image 2: number 20 (it is not an image or is damaged); it is left out"
    ]
    assert said[-1] == "2 of 37 images are damaged and were not evaluated"
    assert len(said) == 3
    images, labels = zip(*host_images(Damaged(10, {4}), SMALL, 4), strict=True)
    assert np.concatenate(labels).tolist() == [i % 3 for i in range(10) if i != 4]
    assert sum(map(len, images)) == 9


def test_many_are_counted_but_not_all_are_named(capfd):
    damage = Damage()
    list(host_images(Damaged(60, set(range(50))), SMALL, 8, damage=damage))
    assert len(damage) == 50
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 22
    assert said[-2:] == [
        "further damaged images are counted, but not named",
        "50 of 60 images are damaged and were not evaluated",
    ]


def test_a_source_without_good_images_ends_the_run():
    with pytest.raises(
        UserError, match=r"number \d+ is damaged \(.*\), and so are all of the 9 images"
    ):
        train(Damaged(9, set(range(9))), 0, 1)
    with pytest.raises(UserError, match="all 9 images that were to be evaluated are damaged"):
        list(host_images(Damaged(9, set(range(9))), SMALL, 4))
