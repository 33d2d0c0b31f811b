import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax.data import augment
from se_flax.data.augment import OPERATIONS, POLICIES, Steps
from se_flax.errors import UserError
from tests.data.augment.frequencies import assert_frequency
from tests.data.augment.pillow_ops import ARGUMENTS, PILLOW, by_pillow, photograph

BLENDS = ("color", "contrast", "brightness", "sharpness")
WARPS = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")


@functools.cache
def cutout():
    return jax.jit(augment.cutout)


def replayed(image, name, argument, key):
    if name == "identity":
        return image
    if name == "cutout":
        return np.uint8(cutout()(key, jnp.float32(image), 2 * int(argument), 128))
    return by_pillow(name, image, argument)


def draw_many(draw, number):
    return jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), number))


def test_a_step_applies_the_operation_it_names():
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
def test_a_policy_draws_its_operations_with_their_probabilities(policy):
    number = 10000
    steps = draw_many(lambda key: augment.draw_auto_augment(key, policy), number)
    sub_policies = POLICIES[policy].sub_policies
    for position in range(2):
        expected = {}
        for operation, probability, level in (choices[position] for choices in sub_policies):
            argument = np.float32(POLICIES[policy].argument(operation, level))
            is_blend = POLICIES[policy].two_sided and operation in BLENDS
            signs = (-1, 1) if operation in WARPS or is_blend else (1,)
            for sign in signs:
                at = (OPERATIONS.index(operation), float(is_blend + sign * argument) + 0.0)
                probability_at = probability / len(sub_policies) / len(signs)
                expected[at] = expected.get(at, 0) + probability_at
        operations, arguments = steps.operation[:, position], steps.argument[:, position]
        taken = np.asarray(operations) > 0
        seen = np.stack([operations, arguments + 0.0])[:, taken].T.tolist()
        assert {(int(operation), argument) for operation, argument in seen} <= set(expected)
        for (operation, argument), probability in expected.items():
            assert_frequency(seen.count([operation, argument]), number, probability)
        assert_frequency(np.sum(~taken), number, 1 - sum(expected.values()))
    both = np.mean([first[1] * second[1] for first, second in sub_policies])
    assert_frequency(np.sum(np.all(steps.operation > 0, axis=1)), number, both)


def test_rand_augment_draws_all_operations_equally_often():
    number = 8000
    steps = draw_many(lambda key: augment.draw_rand_augment(key, 3, 5), number)
    assert steps.operation.shape == (number, 3)
    counts = np.stack([np.bincount(column, minlength=17) for column in steps.operation.T])
    assert np.all(counts[:, 0] == 0)
    for count in counts[:, 1:].flat:
        assert_frequency(count, number, 1 / 16)
    first, second = (np.asarray(steps.argument)[:, i] for i in range(2))
    are_warps = np.isin(steps.operation[:, :2], [OPERATIONS.index(name) for name in WARPS]).all(1)
    assert_frequency(np.sum(first * second > 0, where=are_warps), are_warps.sum(), 0.5)
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


def test_posterize_and_solarize_have_no_effect_at_levels_far_above_ten():
    steps = draw_many(lambda key: augment.draw_rand_augment(key, 1, 28), 200)
    (posterize, solarize) = (OPERATIONS.index(name) for name in ("posterize", "solarize"))
    assert set(steps.argument[steps.operation == posterize].tolist()) == {8}
    assert min(steps.argument[steps.operation == solarize].tolist()) >= 256


def timm_steps(number, magnitude, magnitude_std, num_ops=2, shape=(80, 40, 3)):
    def draw(key):
        return augment.draw_rand_augment_timm(key, shape, num_ops, magnitude, magnitude_std)

    return draw_many(draw, number)


def test_timms_rand_augment_applies_each_of_15_operations_half_of_the_time():
    number = 8000
    steps = timm_steps(number, 7, 0.5)
    names = set(OPERATIONS) - {"identity", "cutout"}
    for column in steps.operation.T:
        counts = dict(zip(OPERATIONS, np.bincount(column, minlength=17), strict=True))
        assert counts.pop("cutout") == 0
        assert_frequency(counts.pop("identity"), number, 1 / 2)
        assert set(counts) == names
        for count in counts.values():
            assert_frequency(count, number, 1 / 30)
    assert_frequency(np.sum(np.all(steps.operation > 0, axis=1)), number, 1 / 4)


def arguments_of(steps, name):
    return np.asarray(steps.argument)[np.asarray(steps.operation) == OPERATIONS.index(name)]


def test_the_level_of_each_of_timms_operations_is_drawn_around_the_magnitude():
    steps = timm_steps(20000, 7, 0.5)
    levels = np.abs(arguments_of(steps, "rotate")) / 3
    assert np.mean(levels) == pytest.approx(7, abs=0.1)
    assert np.std(levels) == pytest.approx(0.5, abs=0.05)
    signs = arguments_of(steps, "rotate") > 0
    assert_frequency(np.sum(signs), len(signs), 0.5)
    assert np.abs(arguments_of(timm_steps(4000, 10, 5), "rotate")).max() == pytest.approx(30)
    assert np.abs(arguments_of(timm_steps(4000, 0, 5), "rotate")).min() == 0
    color = arguments_of(timm_steps(4000, 9.9, 0.2), "color")
    assert np.min(color) == pytest.approx(0.1)
    assert np.max(color) == pytest.approx(1.9)


@pytest.mark.references
@pytest.mark.parametrize("level", [*range(11), 3.3, 9.7])
def test_the_arguments_of_timms_operations_are_timms(level):
    from tests.references import torch_models  # noqa: F401, I001
    from timm.data import auto_augment as timm

    steps = timm_steps(2000, level, 0, shape=(80, 40, 3))
    for theirs in timm._RAND_INCREASING_TRANSFORMS:
        name = snake_case(theirs.removesuffix("Increasing").removesuffix("Rel"))
        compute = timm.LEVEL_TO_ARG[theirs]
        expected = {0.0}
        if compute:
            expected = {compute(level, {"translate_pct": 0.45})[0] for _ in range(100)}
        if name.startswith("translate"):
            expected = {(40 if name == "translate_x" else 80) * value for value in expected}
        np.testing.assert_allclose(
            sorted(set((arguments_of(steps, name) + 0.0).tolist())),
            sorted({value + 0.0 for value in expected}),
            rtol=1e-5,
        )


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
def test_a_level_gives_the_argument_of_the_published_code(policy, operation, level, argument):
    np.testing.assert_allclose(POLICIES[policy].argument(operation, level), argument)


def assert_applies_what_it_draws(results, image, steps):
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
    """The photograph augmented with 150 keys, and the keys."""
    keys = jax.random.split(jax.random.key(1), 150)
    batch = jax.vmap(augment.auto_augment, (0, None, None))
    results = jax.jit(batch, static_argnums=2)(keys, jnp.float32(photograph()), policy)
    return np.asarray(results), keys


@pytest.mark.parametrize("policy", POLICIES)
def test_auto_augment_applies_what_it_draws(policy):
    results, keys = augmented(policy)
    steps = jax.jit(jax.vmap(lambda key: augment.draw_auto_augment(key, policy)))(keys)
    assert_applies_what_it_draws(results, photograph(), steps)


@pytest.mark.parametrize("channels", [1, 3])
def test_rand_augment_applies_what_it_draws(channels):
    image = photograph()[..., :channels]
    keys = jax.random.split(jax.random.key(2), 100)
    rand_augment = functools.partial(augment.rand_augment, num_ops=2, magnitude=9)
    results = np.asarray(jax.jit(jax.vmap(rand_augment, (0, None)))(keys, jnp.float32(image)))
    steps = jax.jit(jax.vmap(lambda key: augment.draw_rand_augment(key, 2, 9)))(keys)
    assert_applies_what_it_draws(results, image, steps)


def test_timms_rand_augment_applies_what_it_draws():
    image = photograph()
    keys = jax.random.split(jax.random.key(2), 100)
    options = {"num_ops": 2, "magnitude": 8, "magnitude_std": 2}
    rand_augment = functools.partial(augment.rand_augment_timm, **options)
    results = np.asarray(jax.jit(jax.vmap(rand_augment, (0, None)))(keys, jnp.float32(image)))
    draw = functools.partial(augment.draw_rand_augment_timm, shape=image.shape, **options)
    assert_applies_what_it_draws(results, image, jax.jit(jax.vmap(draw))(keys))


def test_an_image_of_a_batch_is_augmented_as_if_alone():
    results, keys = augmented("autoaugment_cifar10")
    alone = jax.jit(augment.auto_augment, static_argnums=2)
    for key, result in list(zip(keys, results, strict=True))[:20]:
        image = alone(key, jnp.float32(photograph()), "autoaugment_cifar10")
        np.testing.assert_array_equal(image, result)


def test_an_unknown_policy_is_an_error_that_lists_the_known_ones():
    with pytest.raises(UserError, match="known are autoaugment_imagenet, autoaugment_cifar10"):
        augment.auto_augment(jax.random.key(0), jnp.zeros((4, 4, 3)), "autoaugment")


def test_importing_the_policies_imports_no_image_library_and_no_optimizer(run_python):
    program = """
import sys
from se_flax.data.augment import POLICIES
print(sorted({"cv2", "dm_pix", "optax", "tensorflow"} & set(sys.modules)))
"""
    process = run_python("-c", program)
    assert process.stdout.strip() == "[]", process.stderr


def snake_case(name):
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name)[1:]


@pytest.mark.references
def test_the_policy_for_imagenet_equals_that_of_timm():
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
def test_the_policies_for_small_images_equal_those_of_torchvision(name):
    from tests.references import torch_models  # noqa: F401, I001
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    table = tuple(
        tuple((snake_case(op), probability, level or 0) for op, probability, level in sub_policy)
        for sub_policy in AutoAugment(AutoAugmentPolicy[name]).policies
    )
    assert table == POLICIES[f"autoaugment_{name.lower()}"].sub_policies


@pytest.mark.references
def test_the_papers_policy_for_imagenet_equals_that_of_torchvision():
    from tests.references import torch_models  # noqa: F401, I001
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    theirs = AutoAugment(AutoAugmentPolicy.IMAGENET)
    space = theirs._augmentation_space(10, (331, 331))
    policy = POLICIES["autoaugment_imagenet_torchvision"]
    for ours, expected in zip(policy.sub_policies, theirs.policies, strict=True):
        for (name, probability, level), (their_name, their_probability, their_level) in zip(
            ours, expected, strict=True
        ):
            assert (name, probability) == (snake_case(their_name), their_probability)
            magnitudes, signed = space[their_name]
            assert signed == (name in (*WARPS, *BLENDS))
            argument = policy.argument(name, level)
            if their_level is not None:
                assert argument == pytest.approx(float(magnitudes[their_level]), rel=1e-5)
