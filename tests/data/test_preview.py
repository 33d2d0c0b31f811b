import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from se_flax.data.preprocessing import Batch
from se_flax.data.preview import captions_of, draw_grid, preview_batch
from tests import tiny_run


@pytest.mark.slow
def test_the_command_draws_the_images_of_the_first_step(run_python, tmp_path):
    output = tmp_path / "preview.png"
    process = run_python(
        *("-m", "se_flax.data.preview", "--config=tests/tiny_run.py"),
        *("--count=5", "--columns=3", f"--output={output}", "--config.augment.mixup=0.5"),
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("6 training images of step 0 of digits")
    # Images of 8 pixels are drawn with 96, and a caption below.
    assert Image.open(output).size == (3 * 100, 2 * (96 + 18))


@pytest.mark.parametrize("train", [True, False])
def test_streamed_images_are_those_of_the_run(image_dir, train):
    config = tiny_run.get_config()
    tiny_run.stream(config, image_dir)
    config.batch_size = 8
    config.augment.horizontal_flip = False
    batch, dataset = preview_batch(config, step=3, count=6, train=train)
    assert batch.images.shape == (6, 16, 16, 3)
    images = np.asarray(batch.images) * dataset.std + dataset.mean
    # Each class has its own colour.
    colours = images.mean((1, 2)).argmax(-1)
    np.testing.assert_array_equal(
        np.array(["red", "green", "blue"])[colours], np.array(dataset.class_names)[batch.labels]
    )
    again, _ = preview_batch(config, step=3, count=6, train=train)
    np.testing.assert_array_equal(again.images, batch.images)


@pytest.mark.parametrize(
    ("unset", "field", "value"),
    [
        ({"mixup": 1.0}, "mix_by", "batch"),
        ({"random_erasing": 1.0}, "erasing_form", "torchvision"),
        ({"policy": "randaugment_timm", "num_ops": 8}, "magnitude_std", 3.0),
        ({"policy": "randaugment_timm", "num_ops": 8}, "magnitude", 1.0),
        ({}, "repeats", 2),
    ],
)
def test_each_field_of_augmentation_changes_the_batch(image_dir, unset, field, value):
    config = tiny_run.get_config()
    tiny_run.stream(config, image_dir)
    config.batch_size = 8
    config.augment.update(unset)
    without, _ = preview_batch(config, step=1, count=8, train=True)
    config.augment[field] = value
    with_it, _ = preview_batch(config, step=1, count=8, train=True)
    assert np.abs(np.asarray(with_it.images) - np.asarray(without.images)).max() > 0.1
    if field == "mix_by":
        assert len(set(np.asarray(with_it.lam).tolist())) == 1
        assert len(set(np.asarray(without.lam).tolist())) > 1


def test_images_are_drawn_in_the_right_places():
    images = np.zeros((5, 96, 96, 1), np.float32)
    images[3] = 1.0
    grid = np.asarray(draw_grid(images, ["", "", "", "", ""], columns=2))
    assert grid[0, 0].tolist() == [0, 0, 0]
    assert grid[96 + 18 + 5, 100 + 5].tolist() == [255, 255, 255]


def test_captions_of_mixed_images_name_both_classes():
    batch = Batch(
        images=jnp.zeros((2, 1, 1, 3)),
        labels=jnp.array([0, 1]),
        mask=jnp.ones(2, bool),
        mix_labels=jnp.array([1, 0]),
        lam=jnp.array([0.25, 0.25]),
    )
    assert captions_of(batch, ("cat", "dog")) == ["25 cat, 75 dog", "25 dog, 75 cat"]
    assert captions_of(batch.replace(lam=None), ("cat", "dog")) == ["cat", "dog"]
