import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_image

from se_flax.data import augment
from se_flax.data.augment import OPERATIONS, POLICIES, Steps
from se_flax.errors import UserError

HEIGHT, WIDTH = 48, 64
WARPS = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
FACTORS = [0.0, 0.1, 0.28, 0.46, 0.64, 0.82, 1.0, 1.18, 1.36, 1.54, 1.72, 1.9, 5.14, 0.333, 0.949]
SHEARS = [0.0, 0.03, -0.12, 0.21, -0.27, 0.3, 0.84]
PIXELS = [0, 1, -9, 20, 47, -100, 250]


def affine(*matrix):
    def transform(image, argument):
        data = [argument if entry is None else entry for entry in matrix]
        fill = (128,) * len(image.getbands())
        return image.transform(image.size, Image.Transform.AFFINE, data, fillcolor=fill)

    return transform


def enhance(enhancer):
    return lambda image, factor: enhancer(image).enhance(factor)


def rotate(image, degrees):
    return image.rotate(degrees, fillcolor=(128,) * len(image.getbands()))


def posterize(image, bits):
    return ImageOps.posterize(image, int(bits)) if bits else image.point(lambda _: 0)


def solarize_add(image, addition):
    return image.point(lambda value: min(value + int(addition), 255) if value < 128 else value)


PILLOW = {
    "auto_contrast": lambda image, _: ImageOps.autocontrast(image),
    "equalize": lambda image, _: ImageOps.equalize(image),
    "invert": lambda image, _: ImageOps.invert(image),
    "posterize": posterize,
    "solarize": ImageOps.solarize,
    "solarize_add": solarize_add,
    "brightness": enhance(ImageEnhance.Brightness),
    "contrast": enhance(ImageEnhance.Contrast),
    "color": enhance(ImageEnhance.Color),
    "sharpness": enhance(ImageEnhance.Sharpness),
    "shear_x": affine(1, None, 0, 0, 1, 0),
    "shear_y": affine(1, 0, 0, None, 1, 0),
    "translate_x": affine(1, 0, None, 0, 1, 0),
    "translate_y": affine(1, 0, 0, 0, 1, None),
    "rotate": rotate,
}

ARGUMENTS = {
    "auto_contrast": None,
    "equalize": None,
    "invert": None,
    "posterize": range(9),
    "solarize": [0, 1, 76, 128, 204, 255, 256, 700],
    "solarize_add": [0, 33, 77, 110, 300],
    "brightness": FACTORS,
    "contrast": FACTORS,
    "color": FACTORS,
    "sharpness": FACTORS,
    "shear_x": SHEARS,
    "shear_y": SHEARS,
    "translate_x": PIXELS,
    "translate_y": PIXELS,
    "rotate": [0, 3, -6, 12.5, 24, -27, 30, 84, 90, 180],
}


@functools.cache
def photograph():
    photo = Image.fromarray(load_sample_image("china.jpg"))
    return np.asarray(photo.resize((WIDTH, HEIGHT), Image.Resampling.BILINEAR))


@functools.cache
def images(channels=3):
    """A photograph, one of little contrast, noise, few values, and three constant images."""
    photo = photograph()
    noise = np.random.default_rng(0).integers(0, 256, photo.shape)
    constants = [np.full_like(photo, value) for value in (0, 77, 255)]
    stack = np.stack([photo, photo // 3 + 50, noise, noise // 64 * 60, *constants])
    return stack[..., :channels].astype(np.uint8)


def by_pillow(name, image, argument):
    pillow = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    return np.asarray(PILLOW[name](pillow, argument)).reshape(image.shape)


@functools.cache
def cutout():
    return jax.jit(augment.cutout)


def replayed(image, name, argument, key):
    if name == "identity":
        return image
    if name == "cutout":
        return np.asarray(cutout()(key, image, 2 * int(argument), 128))
    return by_pillow(name, image, argument)


def draw_many(draw, number):
    return jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), number))


def assert_share(count, number, probability):
    """Five standard deviations: one in two million."""
    deviation = np.sqrt(number * probability * (1 - probability))
    assert abs(count - number * probability) <= 5 * deviation + 1e-9


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", PILLOW)
def test_an_operation_equals_pillows(name, channels):
    operation = getattr(augment, name)
    stack = images(channels)
    if ARGUMENTS[name] is None:
        results = jax.jit(jax.vmap(operation))(jnp.float32(stack))[None]
    else:
        over_images = jax.vmap(operation, (0, None))
        arguments = jnp.float32(list(ARGUMENTS[name]))
        results = jax.jit(jax.vmap(over_images, (None, 0)))(jnp.float32(stack), arguments)
    expected = np.stack(
        [
            [by_pillow(name, image, argument) for image in stack]
            for argument in ARGUMENTS[name] or [None]
        ]
    )
    assert results.dtype == jnp.float32
    if name == "rotate":
        # Sines and cosines are float32 here: a place between two pixels may fall to the other.
        assert np.mean(np.any(results != expected, axis=-1)) < 0.005
    else:
        np.testing.assert_array_equal(results, expected)


def test_auto_contrast_rounds_as_pillow_does_for_all_ranges_of_values():
    lowest, highest = np.triu_indices(256, 1)
    chosen = np.random.default_rng(0).choice(len(lowest), 3000, replace=False)
    ramps = np.clip(np.arange(256), lowest[chosen, None], highest[chosen, None])
    ramps = ramps.astype(np.uint8).reshape(-1, 16, 16, 1)
    results = jax.jit(jax.vmap(augment.auto_contrast))(jnp.float32(ramps))
    expected = np.stack([by_pillow("auto_contrast", ramp, None) for ramp in ramps])
    assert np.any(expected.max((1, 2)) < 255)
    np.testing.assert_array_equal(results, expected)


def test_a_blend_rounds_as_pillow_does_for_all_factors_and_values():
    image = photograph()
    factors = np.random.default_rng(0).uniform(0, 2, 400).astype(np.float32)
    blend = jax.jit(jax.vmap(augment.sharpness, (None, 0)))
    expected = [by_pillow("sharpness", image, factor) for factor in factors]
    np.testing.assert_array_equal(blend(jnp.float32(image), factors), np.stack(expected))


def test_a_step_is_the_operation_of_its_name():
    image = photograph()
    steps = [(name, argument) for name in PILLOW for argument in ARGUMENTS[name] or [0]]
    steps += [("identity", 3), *[("cutout", size) for size in (0, 1, 5, 5, 5, 20, 100)]]
    operations = jnp.array([OPERATIONS.index(name) for name, _ in steps])
    arguments = jnp.float32([argument for _, argument in steps])
    keys = jax.random.split(jax.random.key(0), len(steps))
    apply = jax.jit(jax.vmap(augment.apply_step, (None, 0)))
    results = apply(jnp.float32(image), Steps(operations, arguments, keys))
    for (name, argument), key, result in zip(steps, keys, results, strict=True):
        differing = np.any(result != replayed(image, name, argument, key), axis=-1).mean()
        assert differing <= (0.005 if name == "rotate" else 0), (name, argument)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_chooses_its_operations_as_often_as_it_says(policy):
    number = 10000
    steps = draw_many(lambda key: augment.draw_auto_augment(key, policy), number)
    sub_policies = POLICIES[policy].sub_policies
    for position in range(2):
        expected = {}
        for operation, probability, level in (choices[position] for choices in sub_policies):
            argument = np.float32(POLICIES[policy].argument(operation, level))
            signs = (-1, 1) if operation in WARPS else (1,)
            for sign in signs:
                at = (OPERATIONS.index(operation), float(sign * argument) + 0.0)
                share = probability / len(sub_policies) / len(signs)
                expected[at] = expected.get(at, 0) + share
        operations, arguments = steps.operation[:, position], steps.argument[:, position]
        taken = np.asarray(operations) > 0
        seen = np.stack([operations, arguments + 0.0])[:, taken].T.tolist()
        assert {(int(operation), argument) for operation, argument in seen} <= set(expected)
        for (operation, argument), share in expected.items():
            assert_share(seen.count([operation, argument]), number, share)
        assert_share(np.sum(~taken), number, 1 - sum(expected.values()))
    both = np.mean([first[1] * second[1] for first, second in sub_policies])
    assert_share(np.sum(np.all(steps.operation > 0, axis=1)), number, both)


def test_rand_augment_chooses_all_operations_equally_often():
    number = 8000
    steps = draw_many(lambda key: augment.draw_rand_augment(key, 3, 5), number)
    assert steps.operation.shape == (number, 3)
    counts = np.stack([np.bincount(column, minlength=17) for column in steps.operation.T])
    assert np.all(counts[:, 0] == 0)
    for count in counts[:, 1:].flat:
        assert_share(count, number, 1 / 16)
    first, second = (np.asarray(steps.argument)[:, i] for i in range(2))
    are_warps = np.isin(steps.operation[:, :2], [OPERATIONS.index(name) for name in WARPS]).all(1)
    assert_share(np.sum(first * second > 0, where=are_warps), are_warps.sum(), 0.5)
    arguments = {
        name: set(np.asarray(steps.argument)[steps.operation == OPERATIONS.index(name)].tolist())
        for name in OPERATIONS[1:]
    }
    assert arguments["translate_x"] == {-50, 50}
    assert arguments["rotate"] == {-15, 15}
    assert arguments["cutout"] == {20}
    assert arguments["solarize"] == {128}
    assert arguments["solarize_add"] == {55}
    assert arguments["posterize"] == {2}
    assert arguments["color"] == {1}


def test_levels_beyond_ten_posterise_and_solarise_no_less_than_nothing():
    steps = draw_many(lambda key: augment.draw_rand_augment(key, 1, 28), 200)
    (posterize, solarize) = (OPERATIONS.index(name) for name in ("posterize", "solarize"))
    assert set(steps.argument[steps.operation == posterize].tolist()) == {8}
    assert min(steps.argument[steps.operation == solarize].tolist()) >= 256


@pytest.mark.parametrize(
    ("policy", "operation", "level", "argument"),
    [
        ("autoaugment_imagenet", "shear_y", 4, 0.12),
        ("autoaugment_imagenet", "translate_y", 9, 225),
        ("autoaugment_imagenet", "rotate", 8, 24),
        ("autoaugment_imagenet", "color", 0, 0.1),
        ("autoaugment_imagenet", "solarize", 3, 76),
        ("autoaugment_imagenet", "solarize_add", 7, 77),
        ("autoaugment_imagenet", "posterize", 6, 2),
        ("autoaugment_imagenet", "posterize", 2, 1),
        ("autoaugment_cifar10", "translate_x", 9, 9),
        ("autoaugment_cifar10", "posterize", 7, 2),
        ("autoaugment_cifar10", "solarize", 3, 180),
        ("autoaugment_svhn", "solarize", 8, 52),
        ("autoaugment_svhn", "contrast", 3, 0.64),
    ],
)
def test_a_level_means_what_it_does_in_the_published_code(policy, operation, level, argument):
    np.testing.assert_allclose(POLICIES[policy].argument(operation, level), argument)


def assert_does_what_it_draws(results, image, steps):
    differing = []
    for result, operations, arguments, keys in zip(
        results, steps.operation.tolist(), steps.argument.tolist(), steps.key, strict=True
    ):
        names = [OPERATIONS[operation] for operation in operations]
        expected = image
        for name, argument, key in zip(names, arguments, keys, strict=True):
            expected = replayed(expected, name, argument, key)
        differing.append(np.any(result != expected, axis=-1).mean())
        assert differing[-1] == 0 or "rotate" in names, (names, arguments)
    assert np.mean(differing) < 0.005


@functools.cache
def augmented(policy):
    """The photograph by 150 keys: results, keys."""
    keys = jax.random.split(jax.random.key(1), 150)
    batch = jax.vmap(augment.auto_augment, (0, None, None))
    results = jax.jit(batch, static_argnums=2)(keys, jnp.float32(photograph()), policy)
    return np.asarray(results), keys


@pytest.mark.parametrize("policy", POLICIES)
def test_auto_augment_does_what_it_draws(policy):
    results, keys = augmented(policy)
    steps = jax.jit(jax.vmap(lambda key: augment.draw_auto_augment(key, policy)))(keys)
    assert_does_what_it_draws(results, photograph(), steps)


@pytest.mark.parametrize("channels", [1, 3])
def test_rand_augment_does_what_it_draws(channels):
    image = photograph()[..., :channels]
    keys = jax.random.split(jax.random.key(2), 100)
    rand_augment = functools.partial(augment.rand_augment, num_layers=2, magnitude=9)
    results = np.asarray(jax.jit(jax.vmap(rand_augment, (0, None)))(keys, jnp.float32(image)))
    steps = jax.jit(jax.vmap(lambda key: augment.draw_rand_augment(key, 2, 9)))(keys)
    assert_does_what_it_draws(results, image, steps)


def test_an_image_of_a_batch_is_augmented_as_if_alone():
    results, keys = augmented("autoaugment_cifar10")
    alone = jax.jit(augment.auto_augment, static_argnums=2)
    for key, result in list(zip(keys, results, strict=True))[:20]:
        image = alone(key, jnp.float32(photograph()), "autoaugment_cifar10")
        np.testing.assert_array_equal(image, result)


def test_an_unknown_policy_is_told_with_those_there_are():
    with pytest.raises(UserError, match="known are autoaugment_imagenet, autoaugment_cifar10"):
        augment.auto_augment(jax.random.key(0), jnp.zeros((4, 4, 3)), "autoaugment")


def test_cutout_fills_a_square_around_each_pixel_equally_often():
    height, width, number = 5, 6, 6000
    keys = jax.random.split(jax.random.key(0), number)
    image = jnp.arange(1.0, 1 + height * width * 2).reshape(height, width, 2)
    results = jax.jit(jax.vmap(lambda key: augment.cutout(key, image, 4, fill=-7)))(keys)
    squares = {}
    for row in range(height):
        for column in range(width):
            square = np.array(image)
            square[max(row - 2, 0) : row + 2, max(column - 2, 0) : column + 2] = -7
            squares[square.tobytes()] = (row, column)
    centres = [squares[np.asarray(result).tobytes()] for result in results]
    for centre in squares.values():
        assert_share(centres.count(centre), number, 1 / (height * width))


@functools.cache
def erased(probability):
    """4000 black images of 40x30, each with the probability to be erased."""
    keys = jax.random.split(jax.random.key(0), 4000)
    return np.asarray(erase()(keys, jnp.zeros((40, 30, 3)), probability))


@functools.cache
def erase():
    return jax.jit(jax.vmap(augment.random_erasing, (0, None, None)))


def test_random_erasing_erases_boxes_of_the_given_areas_and_aspects():
    mask = np.any(erased(0.25) != 0, axis=-1)
    mask = mask[mask.any((1, 2))]
    assert_share(len(mask), 4000, 0.25)
    rows, columns = mask.any(2), mask.any(1)
    heights, widths = rows.sum(1), columns.sum(1)
    np.testing.assert_array_equal(mask.sum((1, 2)), heights * widths)

    # Sides are rounded to whole pixels.
    assert np.all((heights - 0.5) * (widths - 0.5) <= 1200 / 3)
    assert np.all((heights + 0.5) * (widths + 0.5) >= 1200 * 0.02)
    assert np.all((heights - 0.5) / (widths + 0.5) <= 1 / 0.3)
    assert np.all((heights + 0.5) / (widths - 0.5) >= 0.3)
    assert heights.max() < 40
    assert widths.max() < 30
    assert np.mean(heights * widths / 1200) == pytest.approx((0.02 + 1 / 3) / 2, abs=0.01)
    assert np.mean(heights / widths) == pytest.approx((0.3 + 1 / 0.3) / 2, abs=0.1)

    # Every place a box fits in is as likely.
    top, left = rows.argmax(1) / (40 - heights), columns.argmax(1) / (30 - widths)
    assert np.mean(top) == pytest.approx(0.5, abs=0.04)
    assert np.mean(left) == pytest.approx(0.5, abs=0.04)
    assert top.min() == left.min() == 0
    assert top.max() == left.max() == 1


def test_random_erasing_fills_with_normal_noise():
    noise = erased(0.25)[erased(0.25) != 0]
    assert noise.mean() == pytest.approx(0, abs=0.01)
    assert noise.std() == pytest.approx(1, abs=0.01)
    assert np.mean(np.abs(noise) < 1) == pytest.approx(0.683, abs=0.01)


def test_random_erasing_with_probability_0_or_1():
    assert np.all(erased(0.0) == 0)
    assert np.all(np.any(erased(1.0) != 0, axis=(1, 2, 3)))


MIXTURES = {
    "mixup": lambda keys, images: augment.mixup(keys, images, 0.4),
    "cutmix": lambda keys, images: augment.cutmix(keys, images, 1.0),
    "mix": lambda keys, images: augment.mix(keys, images, 0.4, 1.0),
}


@functools.cache
def mixed(name):
    """1000 images of 12x10, image i all of value i: mixed images and shares."""
    keys = jax.random.split(jax.random.key(0), 500)
    results = jax.jit(MIXTURES[name])(keys, constant_images())
    return tuple(np.asarray(result) for result in results)


def constant_images():
    return jnp.broadcast_to(jnp.arange(1000.0)[:, None, None, None], (1000, 12, 10, 3))


def partners():
    return np.arange(1000) ^ 1


@pytest.mark.parametrize("name", MIXTURES)
def test_an_image_is_its_share_of_itself_and_the_rest_its_neighbour(name):
    results, shares = mixed(name)
    expected = shares * np.arange(1000) + (1 - shares) * partners()
    np.testing.assert_allclose(results.mean((1, 2, 3)), expected, rtol=1e-5)
    np.testing.assert_array_equal(shares[::2], shares[1::2])
    sums = np.broadcast_to((4 * np.arange(500) + 1)[:, None, None, None], results[::2].shape)
    np.testing.assert_allclose(results[::2] + results[1::2], sums, rtol=1e-5)


def test_mixup_weighs_by_the_beta_distribution():
    results, shares = mixed("mixup")
    np.testing.assert_allclose(np.ptp(results, axis=(1, 2, 3)), 0)
    shares = shares[::2]
    assert np.all((shares >= 0) & (shares <= 1))
    assert shares.mean() == pytest.approx(0.5, abs=0.07)
    assert shares.var() == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.02)


def test_cutmix_cuts_out_boxes_of_the_images_shape():
    results, shares = mixed("cutmix")
    cut = results == partners()[:, None, None, None]
    np.testing.assert_array_equal(cut, results != np.arange(1000)[:, None, None, None])
    np.testing.assert_array_equal(cut, np.broadcast_to(cut[..., :1], cut.shape))
    cut = cut[..., 0]
    heights, widths = cut.any(2).sum(1), cut.any(1).sum(1)
    np.testing.assert_array_equal(cut.sum((1, 2)), heights * widths)
    np.testing.assert_allclose(shares, 1 - heights * widths / 120, rtol=1e-6)
    inner = cut[:, [0, -1]].sum((1, 2)) + cut[:, :, [0, -1]].sum((1, 2)) == 0
    assert np.all(np.abs(heights[inner] / 12 - widths[inner] / 10) <= 0.2)
    assert inner.sum() > 100
    assert heights.max() == 10
    covered = cut[::2].mean(0)
    assert covered[0, 0] < 0.7 * covered[6, 5]


def test_mix_takes_either_for_each_pair():
    results, _ = mixed("mix")
    added = (np.ptp(results, axis=(1, 2, 3)) == 0) & (results[:, 0, 0, 0] % 1 != 0)
    np.testing.assert_array_equal(added[::2], added[1::2])
    assert 180 < added[::2].sum() < 320
    whole = results[~added]
    assert np.all(whole % 1 == 0)


@pytest.mark.parametrize(
    ("name", "alphas"), [("mixup", (0.4, 0.0)), ("cutmix", (0.0, 1.0)), (None, (0.0, 0.0))]
)
def test_mix_with_an_alpha_of_0_is_the_other_or_nothing(name, alphas):
    keys = jax.random.split(jax.random.key(0), 500)
    results = jax.jit(lambda keys, batch: augment.mix(keys, batch, *alphas))(
        keys, constant_images()
    )
    expected = mixed(name) if name else (constant_images(), np.ones(1000))
    jax.tree.map(np.testing.assert_array_equal, results, expected)


def test_how_a_pair_is_mixed_does_not_depend_on_the_rest_of_the_batch():
    keys = jax.random.split(jax.random.key(0), 500)
    share = jax.jit(MIXTURES["mix"])(keys[100:110], constant_images()[200:220])
    expected = (result[200:220] for result in mixed("mix"))
    jax.tree.map(np.testing.assert_array_equal, share, tuple(expected))


def snake_case(name):
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name)[1:]


@pytest.mark.references
def test_the_policy_for_imagenet_is_timms():
    from tests.references import torch_models  # noqa: F401, I001
    from timm.data.auto_augment import auto_augment_policy_v0

    hparams = {"translate_const": 250, "translate_pct": 0.45, "img_mean": (128, 128, 128)}
    table, levels = [], []
    for sub_policy in auto_augment_policy_v0(hparams):
        names = [snake_case(op.name).removesuffix("_rel") for op in sub_policy]
        table.append(
            tuple((name, op.prob, op.magnitude) for name, op in zip(names, sub_policy, strict=True))
        )
        levels += [(name, op) for name, op in zip(names, sub_policy, strict=True) if op.level_fn]
    assert tuple(table) == POLICIES["autoaugment_imagenet"].sub_policies
    for name, op in levels:
        (expected,) = op.level_fn(op.magnitude, hparams)
        if name == "translate_y":
            expected = op.magnitude * 25
        if name == "posterize":
            expected = max(expected, 1)
        argument = POLICIES["autoaugment_imagenet"].argument(name, op.magnitude)
        assert argument == pytest.approx(abs(expected)), name


@pytest.mark.references
@pytest.mark.parametrize("name", ["CIFAR10", "SVHN"])
def test_the_policies_for_small_images_are_torchvisions(name):
    from tests.references import torch_models  # noqa: F401, I001
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    table = tuple(
        tuple((snake_case(op), probability, level or 0) for op, probability, level in sub_policy)
        for sub_policy in AutoAugment(AutoAugmentPolicy[name]).policies
    )
    assert table == POLICIES[f"autoaugment_{name.lower()}"].sub_policies
