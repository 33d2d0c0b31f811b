"""Repeated augmentation: which image is at which position of a run's stream."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax.config import check_config, default_config
from se_flax.data import Dataset, Split
from se_flax.data.dataset import repeating
from se_flax.data.preprocessing import Preprocessing
from se_flax.data.repeats import image_positions, num_shards
from se_flax.data.streaming import StreamedDataset
from se_flax.errors import UserError
from tests.data.test_streaming import SMALL, Noise, Numbers, train


@pytest.mark.parametrize("repeats", [2, 3, 5])
@pytest.mark.parametrize("size", [7, 96, 100])
def test_an_epoch_has_as_many_images_as_before_each_of_them_several_times(size, repeats):
    epochs = np.array([image_positions(p, 16, repeats, size) for p in range(16 * size)])
    for epoch in range(16):
        start = epoch * size
        images, counts = np.unique(epochs[epochs // size == epoch], return_counts=True)
        assert counts.sum() == size
        np.testing.assert_array_equal(images, start + np.arange(-(-size // repeats)))
        assert set(counts[:-1]) <= {repeats}
        assert counts[-1] == (size % repeats or repeats)


def test_without_repeats_every_position_has_its_own_image():
    assert [image_positions(p, 16, 1, 10) for p in range(40)] == list(range(40))


@pytest.mark.parametrize(
    ("batch_size", "repeats", "shards"),
    [(2048, 3, 4), (16, 2, 2), (12, 3, 3), (20, 3, 5), (14, 3, 7), (6, 3, 3), (4096, 4, 4)],
)
def test_no_shard_of_a_batch_and_no_pair_has_two_copies_of_an_image(batch_size, repeats, shards):
    assert num_shards(batch_size, repeats) == shards
    batches = image_positions(np.arange(6 * batch_size), batch_size, repeats, 3 * batch_size)
    for batch in batches.reshape(6, batch_size):
        assert all(first != second for first, second in batch.reshape(-1, 2))
        for shard in batch.reshape(shards, -1):
            assert len(set(shard.tolist())) == len(shard)


@pytest.mark.parametrize(("batch_size", "repeats"), [(15, 3), (4, 3), (2, 2)])
def test_a_batch_that_has_no_equal_shards_is_refused(batch_size, repeats):
    config = default_config()
    config.batch_size, config.augment.repeats = batch_size, repeats
    words = rf"augment.repeats={repeats} does not fit .* an even number of at least {2 * repeats}"
    with pytest.raises(UserError, match=words):
        check_config(config)


@pytest.mark.references
@pytest.mark.parametrize("repeats", [2, 3])
def test_the_order_is_that_of_timms_processes(repeats):
    from tests.references import torch_models  # noqa: F401, I001
    from timm.data.distributed_sampler import RepeatAugSampler

    size, batch_size = 512, 64
    shards = num_shards(batch_size, repeats)
    options = {"shuffle": False, "num_replicas": shards, "num_repeats": repeats}
    samplers = [RepeatAugSampler(range(size), rank=rank, **options) for rank in range(shards)]
    theirs = np.array([list(sampler) for sampler in samplers]).reshape(
        shards, -1, batch_size // shards
    )
    ours = image_positions(np.arange(size), batch_size, repeats, size)
    np.testing.assert_array_equal(
        ours.reshape(-1, shards, batch_size // shards), theirs.swapaxes(0, 1)
    )


def test_streamed_copies_are_cropped_differently_and_read_the_same_from_any_step():
    batches = train(Numbers(60), 0, 12, batch_size=20, repeats=3)
    seen = np.concatenate([batch.images[:, 0, 0, 0] for batch in batches]).reshape(-1, 60)
    for epoch in seen:
        images, counts = np.unique(epoch, return_counts=True)
        assert (len(images), set(counts)) == (20, {3})
    assert len({frozenset(epoch.tolist()) for epoch in seen}) == len(seen)
    for first in (1, 5, 11):
        later = train(Numbers(60), first, 12, batch_size=20, repeats=3)
        np.testing.assert_array_equal(later[0].images, batches[first].images)

    from se_flax.data.images import RandomResizedCrop

    (batch,) = train(Noise(40), 0, 1, batch_size=20, repeats=3, crop=RandomResizedCrop(6))
    assert len({image.tobytes() for image in batch.images}) == 20


def test_copies_of_images_in_memory_have_the_same_label_and_another_augmentation():
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 1), np.uint8)
    split = Split(images, np.arange(24))
    names = tuple(map(str, range(24)))
    dataset = repeating(Dataset("x", split, split, names, (0.5,), (0.5,), False), 3)
    preprocessing = Preprocessing.of(dataset, {"crop_padding": 3})
    feed = dataset.train_feed(12, 0, 8)
    whole = []
    for step in range(4):
        shared, own = feed.inputs(step)
        batch = jax.jit(dataset.train_batch, static_argnums=1)(
            preprocessing, 12, shared, own.reshape(-1), jnp.uint32(3), jnp.int32(step)
        )
        labels = np.asarray(batch.labels)
        assert set(np.unique(labels, return_counts=True)[1]) == {3}
        assert len({np.asarray(image).tobytes() for image in batch.images}) > 8
        whole.append(labels)
    first, second = (np.concatenate(whole[i : i + 2]) for i in (0, 2))
    assert (len(set(first)), len(set(second))) == (8, 8)
    assert set(first) != set(second)


def test_a_data_set_that_cannot_repeat_images_is_refused():
    streamed = StreamedDataset("x", Numbers(4), Numbers(4), SMALL, SMALL, (0.5,) * 3, (0.5,) * 3)
    assert repeating(streamed, 3).repeats == 3

    class Own:
        """A data set of a user's own, with the methods of `streamed`, that is no dataclass."""

        def __getattr__(self, name):
            if name == "repeats":
                raise AttributeError(name)
            return getattr(streamed, name)

    with pytest.raises(UserError, match=r"repeats=3 has no effect on x, .*; leave it at 1"):
        repeating(Own(), 3)
