import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import se_flax
from se_flax.detection import (
    Batch,
    Truth,
    create_detector,
    detect,
    list_detectors,
    losses,
    trainable,
    with_trunk,
)
from se_flax.errors import UserError
from se_flax.models.initial_values import initial_values

TRUNK = {"stage_sizes": (1, 1, 1, 1), "widths": (8, 8, 16, 16)}


@pytest.fixture(scope="module")
def model():
    """A detector of 4 classes with a small trunk."""
    return create_detector(
        "fasterrcnn_se_resnet18_fpn",
        4,
        **TRUNK,
        reduction=4,
        pyramid_width=8,
        head_width=16,
        proposals_before=50,
        proposals_after=20,
        train_proposals_before=50,
        train_proposals_after=20,
        anchors_drawn=256,
        regions_drawn=8,
        detections=10,
    )


@pytest.fixture(scope="module")
def batch():
    """Two images; the second is padded and has no objects."""
    truth = Truth(
        boxes=jnp.asarray([[[4, 4, 40, 50], [20, 30, 60, 60]], [[0, 0, 0, 0]] * 2], jnp.float32),
        labels=jnp.asarray([[1, 3], [0, 0]]),
        valid=jnp.asarray([[True, True], [False, False]]),
    )
    images = jax.random.normal(jax.random.key(1), (2, 64, 96, 3))
    return Batch(images, jnp.asarray([[64.0, 96.0], [50.0, 70.0]]), truth)


@pytest.fixture(scope="module")
def variables(model, batch):
    variables = initial_values(model, jax.random.key(0), batch.images.shape[1:])
    # Otherwise all classes are about equally likely.
    variables["params"]["box_head"]["classifier"]["kernel"] *= 300
    return variables


@pytest.mark.slow
def test_detections_have_fixed_shapes_and_lie_in_their_images(model, variables, batch):
    found = jax.jit(functools.partial(detect, model))(variables, batch.images, batch.sizes)
    assert jax.tree.map(jnp.shape, found) == ((2, 10, 4), (2, 10), (2, 10), (2, 10))
    assert found.valid.any(axis=1).all()
    assert (np.diff(found.scores) <= 0).all()
    assert (found.scores[found.valid] > 0.05).all()
    assert set(np.unique(found.labels[found.valid])) <= {1, 2, 3}
    boxes, height, width = found.boxes, batch.sizes[:, :1], batch.sizes[:, 1:]
    assert (boxes >= 0).all()
    assert (boxes[..., 2] <= width).all()
    assert (boxes[..., 3] <= height).all()
    assert not found.boxes[~found.valid].any()


@pytest.fixture(scope="module")
def step(model, variables, batch):
    """A function of a key, which returns the losses and the gradients by name."""

    def total(params, key):
        found = losses(model, {**variables, "params": params}, batch, key)
        return sum(found.values()), found

    gradient_of = jax.jit(jax.grad(total, has_aux=True))

    def step(seed):
        gradient, found = gradient_of(variables["params"], jax.random.key(seed))
        return found, flax.traverse_util.flatten_dict(gradient, sep="/")

    return step


@pytest.fixture(scope="module")
def loss_and_gradient(step):
    return step(0)


@pytest.mark.slow
def test_there_are_four_losses(loss_and_gradient):
    found, _ = loss_and_gradient
    assert set(found) == {"objectness", "proposal_box", "class", "box"}
    assert all(np.isfinite(value) and value > 0 for value in found.values())
    np.testing.assert_allclose(found["objectness"], np.log(2), rtol=0.1)  # nothing is learned yet


@pytest.mark.slow
def test_all_but_batch_norms_stem_and_first_stage_are_trained(model, variables, loss_and_gradient):
    _, gradient = loss_and_gradient
    trained = flax.traverse_util.flatten_dict(trainable(model, variables["params"]), sep="/")
    assert gradient.keys() == trained.keys()
    for name, values in gradient.items():
        assert np.isfinite(values).all(), name
        assert values.any() == trained[name], name
    frozen = {name for name, is_trained in trained.items() if not is_trained}
    assert frozen == {
        name
        for name in gradient
        if name.startswith(("backbone/stem", "backbone/stage1"))
        or (name.startswith("backbone") and "bn" in name.split("/")[-2])
    }
    assert "backbone/stage2_unit1/se/reduce/kernel" not in frozen


@pytest.mark.slow
def test_the_draw_depends_on_the_key(step):
    (first, _), (again, _), (other, _) = map(step, (0, 0, 1))
    assert first == again
    assert first["objectness"] != other["objectness"]


@pytest.mark.parametrize(
    ("backbone", "parameters"), [("resnet50", 41_755_286), ("se_resnet50", 44_286_278)]
)
def test_the_number_of_parameters_is_torchvisions(backbone, parameters):
    model = create_detector(f"fasterrcnn_{backbone}_fpn", num_classes=91)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    flat = flax.traverse_util.flatten_dict(variables["params"])
    norms = {path[:-1] for path in flat if path[-1] == "scale"}  # torchvision does not count them
    assert sum(x.size for path, x in flat.items() if path[:-1] not in norms) == parameters


def random_variables(module, seed):
    """Returns random values of the shapes of a module's variables."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda x: generator.random(x.shape, np.float32), shapes)


def test_a_classifiers_weights_start_the_trunk(model):
    variables = random_variables(model, 0)
    classifier = random_variables(se_flax.create_model("se_resnet18", 5, **TRUNK, reduction=4), 1)
    started = with_trunk(variables, classifier)
    for collection in ("params", "batch_stats"):
        expected = {k: v for k, v in classifier[collection].items() if k != "classifier"}
        found = started[collection]["backbone"]
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    for name in ("fpn", "rpn", "box_head"):
        found, expected = (each["params"][name] for each in (started, variables))
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    other = random_variables(se_flax.create_model("resnet18", 5, **TRUNK), 1)
    with pytest.raises(UserError, match=r"stage1_unit1/se/.* are missing"):
        with_trunk(variables, other)


def test_images_must_be_padded_to_multiples_of_32(model):
    with pytest.raises(UserError, match="images of 64 x 80 must be padded"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 80, 3)))


def test_a_trunk_without_the_pyramids_resolutions_is_refused():
    model = create_detector("fasterrcnn_resnet20_cifar_fpn")
    with pytest.raises(UserError, match="no feature map of stride 8"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("fasterrcnn_se_resnet50", {}, r'no detector "fasterrcnn_se_resnet50" \(did you mean'),
        ("fasterrcnn_se_resnet5_fpn", {}, 'there is no model "se_resnet5"'),
        ("fasterrcnn_resnet50_fpn", {"num_classes": 1}, "at least 2, as it includes the backgr"),
        ("fasterrcnn_resnet50_fpn", {"widht": 3}, 'no field "widht"'),
    ],
)
def test_wrong_names_and_fields_are_refused(name, fields, message):
    with pytest.raises(UserError, match=message):
        create_detector(name, **fields)


@pytest.mark.parametrize("name", list_detectors())
def test_every_listed_detector_can_be_created(name):
    assert create_detector(name, 3).num_classes == 3


@pytest.mark.parametrize("backbone", ["vgg16_bn", "efficientnet_b0", "se_resnext50_32x4d_caffe"])
def test_other_trunks_whose_stages_halve_the_resolution_are_accepted(backbone):
    model = create_detector(f"fasterrcnn_{backbone}_fpn", 3)
    images = jnp.zeros((1, 64, 64, 3))
    found, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images)
    assert found.boxes.shape == (1, 100, 4)
