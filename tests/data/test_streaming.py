import collections
import json
import shutil
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from se_flax.data.folders import ImageFolder
from se_flax.data.images import CenterCrop, RandomResizedCrop
from se_flax.data.streaming import (
    StreamedEvalFeed,
    StreamedTrainFeed,
    Subset,
    eval_batches,
    host_images,
    train_batches,
)
from se_flax.errors import UserError
from tests.conftest import ROOT


class Numbers:
    """Image i has the colour i and the class i % 3."""

    class_names = ("a", "b", "c")

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        return {"image": np.full((4, 5, 1), i, np.uint8), "label": i % 3}

    def describe(self, i):
        return f"number {i}"


class Noise(Numbers):
    """Image i is noise that no other image has."""

    def __getitem__(self, i):
        image = np.random.default_rng(i).integers(0, 256, (9, 11, 3), np.uint8)
        return {"image": image, "label": i % 3}


SMALL = CenterCrop(2, 1.0)


def train(source, first_step, total_steps, **options):
    fields = {"crop": SMALL, "batch_size": 8, "seed": 5, **options}
    return list(train_batches(source, first_step=first_step, total_steps=total_steps, **fields))


@pytest.mark.parametrize("size", [1, 7, 8, 9, 100])
def test_every_image_is_evaluated_once_and_in_order(size):
    batches = list(eval_batches(Numbers(size), SMALL, batch_size=8))
    assert {batch.images.shape for batch in batches} == {(8, 2, 2, 3)}
    images = np.concatenate([batch.images[batch.mask] for batch in batches])
    labels = np.concatenate([batch.labels[batch.mask] for batch in batches])
    np.testing.assert_array_equal(images[:, 0, 0, 0], np.arange(size))
    np.testing.assert_array_equal(labels, np.arange(size) % 3)


@pytest.mark.parametrize("size", [7, 8, 50])
def test_each_epoch_holds_every_image_once_in_a_different_order(size):
    batches = train(Numbers(size), 0, 3 * size)
    seen = np.concatenate([batch.images[:, 0, 0, 0] for batch in batches])
    labels = np.concatenate([batch.labels for batch in batches])
    np.testing.assert_array_equal(labels, seen % 3)
    epochs = seen[: 8 * size].reshape(-1, size)
    for epoch in epochs:
        assert sorted(epoch) == list(range(size))
    assert len({epoch.tobytes() for epoch in epochs}) == len(epochs)
    other_seed = train(Numbers(size), 0, 1, seed=6)[0].images
    assert not np.array_equal(other_seed, batches[0].images)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_batches_depend_only_on_the_step(workers):
    crop = RandomResizedCrop(6)
    whole = train(Noise(30), 0, 12, crop=crop)
    for first in (5, 11):
        later = train(Noise(30), first, 12, crop=crop, workers=workers)
        assert len(later) == 12 - first
        for batch, expected in zip(later, whole[first:], strict=True):
            np.testing.assert_array_equal(batch.images, expected.images)
            np.testing.assert_array_equal(batch.labels, expected.labels)


def test_an_image_is_cropped_differently_each_time():
    batches = train(Noise(8), 0, 2, crop=RandomResizedCrop(6))
    first, second = ({image.tobytes() for image in batch.images} for batch in batches)
    assert not first & second


@pytest.mark.parametrize(("size", "batch_size"), [(45, 16), (13, 8), (64, 16)])
def test_two_processes_of_four_devices_see_every_image_once(size, batch_size, tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    program = """
import json, sys
import jax
rank, address, size, batch_size = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
jax.config.update("jax_num_cpu_devices", 4)
jax.distributed.initialize(address, 2, rank)
from se_flax.data.streaming import eval_batches, train_batches
from tests.data.test_streaming import SMALL, Numbers
assert (jax.device_count(), jax.local_device_count()) == (8, 4)
source = Numbers(size)
trained = train_batches(source, SMALL, batch_size, seed=0, first_step=0, total_steps=size)
trained = [batch.images[:, 0, 0, 0].tolist() for batch in trained]
evaluated = eval_batches(source, SMALL, batch_size)
evaluated = [batch.images[batch.mask][:, 0, 0, 0].tolist() for batch in evaluated]
print(json.dumps([trained, evaluated]))
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(rank), address, str(size), str(batch_size)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    trained, evaluated = zip(*(json.loads(out.splitlines()[-1]) for out, _ in outputs), strict=True)
    # Step by step, the batch of the first process and then that of the second.
    stream = [number for step in zip(*trained, strict=True) for share in step for number in share]
    for epoch in range(batch_size):
        assert sorted(stream[epoch * size : (epoch + 1) * size]) == list(range(size))
    assert len(evaluated[0]) == len(evaluated[1])
    counts = collections.Counter(
        number for batches in evaluated for batch in batches for number in batch
    )
    assert counts == collections.Counter(range(size))


def test_a_subset_keeps_images_and_labels_together():
    subset = Subset(Numbers(20), np.array([3, 17]))
    (batch,) = eval_batches(subset, SMALL, batch_size=2)
    np.testing.assert_array_equal(batch.images[:, 0, 0, 0], [3, 17])
    np.testing.assert_array_equal(batch.labels, [0, 2])
    assert subset.describe(1) == "number 17"


class Broken(Numbers):
    def __init__(self, image=b"not an image", label=0):
        super().__init__(4)
        self.record = {"image": image, "label": label}

    def __getitem__(self, i):
        return self.record if i == 2 else super().__getitem__(i)


@pytest.mark.parametrize(
    ("image", "fault"),
    [(b"not an image", "it is not an image or is damaged"), (b"", "it is empty")],
)
def test_an_unreadable_image_is_named_and_left_out(image, fault, capfd):
    (batch,) = eval_batches(Broken(image), SMALL, batch_size=4)
    np.testing.assert_array_equal(batch.mask, [True, True, False, True])
    assert f"number 2 ({fault}); it is left out" in capfd.readouterr().err


def test_a_label_without_a_class_is_named():
    source = Broken(np.zeros((4, 4, 3), np.uint8), 3)
    with pytest.raises(UserError, match=r"number 2 has the label 3, .* 3 classes"):
        list(eval_batches(source, SMALL, batch_size=4))


def test_an_image_that_has_vanished_is_named(image_dir, tmp_path):
    shutil.copytree(image_dir / "val", tmp_path / "images")
    source = ImageFolder.of(tmp_path / "images")
    source.paths[5].unlink()
    with pytest.raises(OSError, match=f"cannot read {source.paths[5]}: No such file or directory;"):
        list(eval_batches(source, SMALL, batch_size=4))


def test_a_batch_is_shared_out_in_order():
    (batch,) = eval_batches(Numbers(8), SMALL, batch_size=8)
    shared = batch.by_device()
    assert shared.images.shape == (jax.local_device_count(), 8 // jax.local_device_count(), 2, 2, 3)
    np.testing.assert_array_equal(shared.positions.reshape(-1), np.arange(8))
    np.testing.assert_array_equal(shared.labels.reshape(-1), np.arange(8) % 3)
    assert shared.mask.all()


@pytest.mark.parametrize(
    ("size", "most", "batches"),
    [(1, 50, 1), (20, 50, 1), (50, 50, 1), (51, 50, 2), (100, 50, 2), (97, 10, 10)],
)
def test_evaluation_batches_have_one_size_and_little_padding(size, most, batches):
    devices = jax.device_count()
    feed = StreamedEvalFeed(Numbers(size), SMALL, most)
    masks = [own.mask.reshape(-1) for _, own in feed]
    assert len(masks) == len(feed) == batches
    assert len({len(mask) for mask in masks}) == 1
    assert sum(mask.sum() for mask in masks) == size
    assert sum(len(mask) for mask in masks) < size + batches * devices


def test_padding_is_not_read():
    read = []

    class Watched(Numbers):
        def __getitem__(self, i):
            read.append(i)
            return super().__getitem__(i)

    ((images, _),) = host_images(Watched(3), SMALL, batch_size=100)
    assert len(images) == 3
    assert sorted(read) == [0, 1, 2]


def test_a_feed_reads_ahead_and_can_be_closed_and_used_again():
    def batches_from(step):
        yield from train(Numbers(20), step, 4)

    feed = StreamedTrainFeed(batches_from)
    feed.prefetch(1)
    expected = train(Numbers(20), 1, 2)[0].images
    for _ in range(2):
        _, batch = feed.inputs(1)
        np.testing.assert_array_equal(np.asarray(batch.images).reshape(expected.shape), expected)
        feed.close()
    feed.inputs(3)
    feed.prefetch(4)
    with pytest.raises(IndexError, match="no step 4"):
        feed.inputs(4)
