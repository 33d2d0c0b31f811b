"""The detector and its parts equal torchvision's."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax.detection import Batch, Truth, create_detector, losses, prepare, rescale
from se_flax.detection.anchors import ASPECT_RATIOS, SIZES, level_anchors
from se_flax.detection.boxes import HEAD_WEIGHTS, UNIT_WEIGHTS, decode, encode
from se_flax.detection.matching import assign
from se_flax.detection.pyramid import levels_of
from se_flax.detection.roi_align import roi_align
from se_flax.detection.suppression import best_boxes, unsuppressed
from se_flax.pretrained.convert import convert, convert_back
from se_flax.pretrained.detectors import layouts_of_detector

pytestmark = pytest.mark.references

NUM_CLASSES = 5
# Small numbers, so that each limit takes effect.
THEIR_FIELDS = {
    "min_size": 96,
    "max_size": 150,
    "rpn_pre_nms_top_n_train": 300,
    "rpn_pre_nms_top_n_test": 200,
    "rpn_post_nms_top_n_train": 120,
    "rpn_post_nms_top_n_test": 80,
    "rpn_batch_size_per_image": 64,
    "box_batch_size_per_image": 32,
    "box_detections_per_img": 30,
}
OUR_FIELDS = {
    "train_proposals_before": 300,
    "proposals_before": 200,
    "train_proposals_after": 120,
    "proposals_after": 80,
    "anchors_drawn": 64,
    "regions_drawn": 32,
    "detections": 30,
}


@pytest.fixture(scope="module")
def torch():
    import torch

    from tests.references import torchvision_detectors

    torchvision_detectors.use_operators_in_python()
    return torch


@pytest.fixture(scope="module")
def detection(torch):
    """torchvision.models.detection."""
    import torchvision

    return torchvision.models.detection


def random_boxes(generator, *shape, extent=100.0, least=4.0, most=60.0):
    """Returns boxes that start between 0 and `extent` and have sides of `least` to `most`."""
    corners = generator.uniform(0, extent, (*shape, 2))
    return np.concatenate([corners, corners + generator.uniform(least, most, (*shape, 2))], -1)


def test_anchors_are_equal(torch, detection):
    size, maps = (800, 1344), [(200, 336), (100, 168), (50, 84), (25, 42), (13, 21)]
    generator = detection.faster_rcnn._default_anchorgen()
    images = detection.image_list.ImageList(torch.zeros(1, 3, *size), [size])
    (expected,) = generator(images, [torch.zeros(1, 1, *each) for each in maps])
    ours = [level_anchors(size, *level) for level in zip(maps, SIZES, strict=True)]
    np.testing.assert_array_equal(np.concatenate(ours), expected)
    assert len(expected) == 268_569 == len(ASPECT_RATIOS) * sum(h * w for h, w in maps)


@pytest.mark.parametrize("weights", [UNIT_WEIGHTS, HEAD_WEIGHTS])
def test_codes_are_equal(torch, detection, weights):
    generator = np.random.default_rng(0)
    boxes, anchors = random_boxes(generator, 2, 500).astype(np.float32)
    coder = detection._utils.BoxCoder(weights)
    expected = coder.encode_single(*map(torch.from_numpy, (boxes, anchors)))
    found = encode(jnp.asarray(boxes), jnp.asarray(anchors), weights)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    codes = (generator.standard_normal((500, 4)) * weights * (1, 1, 4, 4)).astype(np.float32)
    expected = coder.decode_single(*map(torch.from_numpy, (codes, anchors)))
    scale = np.max(np.abs(expected.numpy()), axis=1, keepdims=True)
    found = decode(jnp.asarray(codes), jnp.asarray(anchors), weights)
    np.testing.assert_allclose(found / scale, expected.numpy() / scale, atol=1e-6)


def by_definition(torch, x, boxes, scale, size, samples):
    """Returns RoIAlign of one image's map [c, h, w], point by point, as torchvision's C++ does."""
    _, height, width = x.shape

    def at(y, x_):
        if not (-1 <= y <= height and -1 <= x_ <= width):
            return torch.zeros_like(x[:, 0, 0])
        y, x_ = min(max(y, 0), height - 1), min(max(x_, 0), width - 1)
        i, j = int(y), int(x_)
        i2, j2 = min(i + 1, height - 1), min(j + 1, width - 1)
        top = x[:, i, j] * (1 - (x_ - j)) + x[:, i, j2] * (x_ - j)
        bottom = x[:, i2, j] * (1 - (x_ - j)) + x[:, i2, j2] * (x_ - j)
        return top * (1 - (y - i)) + bottom * (y - i)

    def of_bin(box, row, column):
        x1, y1, x2, y2 = (float(value) * scale for value in box)
        h, w = max(y2 - y1, 1) / size, max(x2 - x1, 1) / size
        points = [(i + 0.5) / samples for i in range(samples)]
        values = [at(y1 + (row + p) * h, x1 + (column + q) * w) for p in points for q in points]
        return sum(values) / samples**2

    bins = range(size)
    regions = [
        torch.stack([torch.stack([of_bin(box, i, j) for j in bins], -1) for i in bins], -2)
        for box in boxes
    ]
    return torch.stack(regions)  # [r, c, size, size]


@pytest.mark.parametrize("where", ["inside", "over the border", "smaller than a bin"])
def test_roi_align_and_its_gradient_are_equal(torch, where):
    import torchvision

    generator = np.random.default_rng(0)
    boxes = {
        "inside": random_boxes(generator, 12, extent=60, most=40),
        "over the border": random_boxes(generator, 12, extent=110, most=90) - 40,
        "smaller than a bin": random_boxes(generator, 12, extent=90, least=0, most=6),
    }[where]
    x = generator.standard_normal((14, 18, 3))
    weights = generator.standard_normal((12, 7, 7, 3))
    theirs = torch.from_numpy(x).permute(2, 0, 1).clone().requires_grad_()
    expected = by_definition(torch, theirs, boxes, 1 / 8, 7, 2).permute(0, 2, 3, 1)
    (expected * torch.from_numpy(weights)).sum().backward()
    rois = torch.from_numpy(np.concatenate([np.zeros((12, 1)), boxes], 1))
    if where != "over the border" or torchvision.extension._has_ops():
        # Further out than a position, torchvision's form in Python repeats the border instead.
        operator = torchvision.ops.roi_align(theirs[None], rois, 7, 1 / 8, 2)
        np.testing.assert_allclose(operator.detach().permute(0, 2, 3, 1), expected.detach())

    with jax.enable_x64(True):

        def pool(x):
            levels = jnp.zeros((1, 12), jnp.int32)
            return roi_align([x[None]], jnp.asarray(boxes)[None], levels, [8])[0]

        found, pullback = jax.vjp(pool, jnp.asarray(x))
        (gradient,) = pullback(jnp.asarray(weights))
    np.testing.assert_allclose(found, expected.detach(), atol=1e-12)
    np.testing.assert_allclose(gradient, theirs.grad.permute(1, 2, 0), atol=1e-12)
    assert np.std(found) > 0.1


def test_levels_of_regions_are_equal(torch):
    from torchvision.ops.poolers import LevelMapper

    generator = np.random.default_rng(0)
    boxes = random_boxes(generator, 2000, least=1, most=1300).astype(np.float32)
    sides = np.float32([[112, 224, 448, 896]]).T + np.float32([-1e-2, -1e-5, 0, 1e-2])
    squares = np.concatenate([0 * sides.reshape(-1, 1)] * 2 + [sides.reshape(-1, 1)] * 2, 1)
    boxes = np.concatenate([boxes, squares])
    expected = LevelMapper(2, 5)([torch.from_numpy(boxes)])
    np.testing.assert_array_equal(levels_of(jnp.asarray(boxes)), expected)
    assert np.bincount(expected).min() > 10


@pytest.mark.parametrize(
    ("high", "low", "low_quality"), [(0.7, 0.3, True), (0.5, 0.5, False), (0.7, 0.3, False)]
)
def test_matches_are_equal_ties_included(torch, detection, high, low, low_quality):
    import torchvision

    matcher = detection._utils.Matcher(high, low, low_quality)
    generator = np.random.default_rng(0)
    for _ in range(20):
        # On whole pixels, so that many overlaps are equal.
        truth = np.round(random_boxes(generator, 6, most=40) / 8) * 8
        anchors = np.round(random_boxes(generator, 300, most=40) / 8) * 8
        truth[:, 2:] = np.maximum(truth[:, 2:], truth[:, :2] + 8)
        anchors[:, 2:] = np.maximum(anchors[:, 2:], anchors[:, :2] + 8)
        truth, anchors = truth.astype(np.float32), anchors.astype(np.float32)
        overlaps = torchvision.ops.box_iou(*map(torch.from_numpy, (truth, anchors)))
        expected = matcher(overlaps).numpy()
        padded = np.concatenate([truth, np.zeros((3, 4), np.float32)])[None]
        found = assign(
            jnp.asarray(anchors)[None],
            jnp.ones((1, 300), bool),
            Truth(
                jnp.asarray(padded),
                jnp.arange(1, 10)[None],
                jnp.arange(9)[None] < 6,
            ),
            high,
            low,
            low_quality,
        )
        labels = np.where(expected >= 0, expected + 1, np.where(expected == -1, 0, -1))
        np.testing.assert_array_equal(found.labels[0], labels)
        matched = expected >= 0
        np.testing.assert_array_equal(found.boxes[0][matched], truth[expected[matched]])


def test_suppression_keeps_the_same_boxes_ties_included(torch):
    import torchvision

    generator = np.random.default_rng(0)
    for threshold in (0.3, 0.5, 0.7):
        boxes = np.round(random_boxes(generator, 400, extent=80, least=10, most=40))
        boxes = boxes.astype(np.float32)
        scores = generator.integers(0, 50, 400).astype(np.float32)  # many are equal
        order = np.argsort(-scores, kind="stable")
        expected = torchvision.ops.boxes.nms(*map(torch.from_numpy, (boxes, scores)), threshold)
        kept = unsuppressed(jnp.asarray(boxes[order]), jnp.ones(400, bool), threshold)
        np.testing.assert_array_equal(order[np.asarray(kept)], expected)
        assert 40 < len(expected) < 360

        labels = np.tile(np.arange(4), 100)
        expected = torchvision.ops.batched_nms(
            *map(torch.from_numpy, (boxes, scores, labels)), threshold
        )
        index, _ = best_boxes(
            jnp.asarray(boxes).reshape(100, 4, 4),
            jnp.asarray(scores).reshape(100, 4),
            threshold,
            30,
        )
        np.testing.assert_array_equal(index, expected[:30])


@pytest.mark.parametrize("sizes", [((60, 90), (90, 70)), ((300, 200), (250, 370))])
def test_images_are_prepared_alike(torch, detection, sizes):
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    transform = detection.transform.GeneralizedRCNNTransform(
        96, 150, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    ).eval()
    boxes = [random_boxes(generator, 3, extent=20, most=30).astype(np.float32) for _ in images]
    expected, targets = transform(
        [torch.from_numpy(image).permute(2, 0, 1) / 255 for image in images],
        [{"boxes": torch.from_numpy(each)} for each in boxes],
    )
    found = prepare(images, short=96, long=150)
    np.testing.assert_array_equal(found.sizes, expected.image_sizes)
    # torchvision rounds the coordinates of pixels to float32.
    np.testing.assert_allclose(found.images, expected.tensors.permute(0, 2, 3, 1), atol=5e-4)
    ours = rescale(jnp.asarray(np.stack(boxes)), found.original_sizes, found.sizes)
    theirs = np.stack([target["boxes"] for target in targets])
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def pair(torch, form):
    """Returns torchvision's detector, and ours with the same weights, both in float64."""
    from tests.references import torch_models, torchvision_detectors

    build = torchvision_detectors.build_v2 if form else torchvision_detectors.build
    theirs = build("resnet18", NUM_CLASSES, **THEIR_FIELDS)
    name = f"fasterrcnn_resnet18_fpn{form}"
    ours = create_detector(name, NUM_CLASSES, **OUR_FIELDS)
    variables = convert(torch_models.tensors(theirs), ours, 64, layouts_of_detector(name))
    generator = np.random.default_rng(0)
    images = [
        torch.from_numpy(generator.random((3, *size))) for size in ((60, 90), (90, 70), (96, 96))
    ]
    theirs = theirs.double().eval()
    with torch.no_grad():
        prepared, _ = theirs.transform(images)
        maps = theirs.backbone(prepared.tensors)
    return types.SimpleNamespace(
        name=name,
        theirs=theirs,
        ours=ours.clone(backbone=ours.backbone.clone(dtype=jnp.float64), dtype=jnp.float64),
        variables=variables,
        images=images,
        prepared=prepared,
        maps=maps,
    )


@pytest.fixture(scope="module", params=["", "_v2"])
def both(request, torch):
    return pair(torch, request.param)


def exactly(values):
    """Returns arrays in float64."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), values)


def inputs(both):
    """Returns our variables, images and sizes."""
    images = both.prepared.tensors.permute(0, 2, 3, 1).numpy()
    return exactly((both.variables, images, np.asarray(both.prepared.image_sizes)))


@pytest.fixture(scope="module")
def ours(both):
    """Our pyramid, outputs of the region proposal network, proposals and detections."""
    with jax.enable_x64(True):

        def compute(variables, images, sizes):
            found, state = both.ours.apply(variables, images, sizes, mutable=["intermediates"])
            bound = both.ours.bind(variables)
            levels = bound.levels(images)
            return levels, bound.rpn(levels), state["intermediates"]["proposals"][0], found

        return jax.tree.map(np.asarray, jax.jit(compute)(*inputs(both)))


def test_the_pyramid_is_equal(both, ours):
    levels, *_ = ours
    assert len(both.maps) == len(levels) == 5
    for level, expected in zip(levels, both.maps.values(), strict=True):
        np.testing.assert_allclose(level.transpose(0, 3, 1, 2), expected, atol=1e-5)


def test_the_outputs_of_the_region_proposal_network_are_equal(torch, both, ours):
    with torch.no_grad():
        objectness, deltas = both.theirs.rpn.head(list(both.maps.values()))
    logits, codes = ours[1]
    for level in range(5):
        expected = objectness[level].permute(0, 2, 3, 1).reshape(3, -1)
        np.testing.assert_allclose(logits[level], expected, atol=1e-5)
        expected = deltas[level].permute(0, 2, 3, 1).reshape(3, -1, 4)
        np.testing.assert_allclose(codes[level], expected, atol=1e-5)
    assert np.std(np.concatenate(logits, 1)) > 0.5


def test_proposals_are_equal(torch, both, ours):
    with torch.no_grad():
        expected, _ = both.theirs.rpn(both.prepared, both.maps)
    boxes, scores, valid = ours[2]
    for i, theirs in enumerate(expected):
        assert np.sum(valid[i]) == len(theirs) > 40
        np.testing.assert_allclose(boxes[i][valid[i]], theirs, atol=1e-4)
        assert np.all(np.diff(scores[i]) <= 0)


def test_detections_in_images_of_different_sizes_are_equal(torch, both, ours):
    with torch.no_grad():
        expected = both.theirs(both.images)
    found = ours[3]
    original = np.asarray([image.shape[1:] for image in both.images], float)
    boxes = rescale(found.boxes, np.asarray(both.prepared.image_sizes, float), original)
    for i, theirs in enumerate(expected):
        valid = found.valid[i]
        assert np.sum(valid) == len(theirs["boxes"]) > 5
        np.testing.assert_array_equal(found.labels[i][valid], theirs["labels"])
        np.testing.assert_allclose(found.scores[i][valid], theirs["scores"], atol=1e-5)
        np.testing.assert_allclose(boxes[i][valid], theirs["boxes"], atol=1e-3)
    assert len(set(found.labels[found.valid])) > 2


@pytest.fixture(scope="module")
def trained(torch):
    """The losses and gradients of both on three images, the second without objects."""
    both = pair(torch, "")
    generator = np.random.default_rng(1)
    truth = Truth(
        boxes=random_boxes(generator, 3, 4, extent=50, least=10, most=40),
        labels=generator.integers(1, NUM_CLASSES, (3, 4)),
        valid=np.array([[True] * 4, [False] * 4, [True, True, False, False]]),
    )
    with jax.enable_x64(True):
        variables, images, sizes = inputs(both)
        batch = Batch(images, sizes, Truth(*map(jnp.asarray, truth)))

        def total(params):
            given = {**variables, "params": params}
            found = losses(both.ours, given, batch, jax.random.key(0))
            return sum(found.values()), found

        (_, found), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))(
            variables["params"]
        )
        _, state = jax.jit(
            lambda variables: both.ours.apply(
                variables, batch, jax.random.key(0), method="losses", mutable=["intermediates"]
            )
        )(variables)
        state = jax.tree.map(np.asarray, state["intermediates"])
        found, gradients = jax.tree.map(np.asarray, (found, gradients))

    targets = [
        {
            "boxes": torch.from_numpy(truth.boxes[i][truth.valid[i]]),
            "labels": torch.from_numpy(truth.labels[i][truth.valid[i]]),
        }
        for i in range(3)
    ]
    expected = their_losses(both.theirs.train(), both.prepared, targets, state, truth.valid)
    sum(expected.values()).backward()
    return types.SimpleNamespace(
        both=both, found=found, expected=expected, gradients=gradients, state=state
    )


def their_losses(model, prepared, targets, state, has_truth):
    """Returns torchvision's losses for the anchors and regions that ours has drawn."""
    from tests.references.torchvision_detectors import Given

    (anchors,), (regions,), (proposals,) = (
        state[name] for name in ("anchor_sample", "region_sample", "proposals")
    )
    model.rpn.fg_bg_sampler = Given(
        [indices[valid] for indices, valid in zip(*anchors, strict=True)]
    )
    # Theirs has no padding between proposals and true boxes.
    exists = np.concatenate([proposals.valid, has_truth], axis=1)
    place = np.cumsum(exists, axis=1) - 1
    model.roi_heads.fg_bg_sampler = Given(
        [place[i][indices[valid]] for i, (indices, valid) in enumerate(zip(*regions, strict=True))]
    )
    maps = model.backbone(prepared.tensors)
    found, of_proposals = model.rpn(prepared, maps, targets)
    assert [len(boxes) for boxes in found] == proposals.valid.sum(axis=1).tolist()
    _, of_regions = model.roi_heads(maps, found, prepared.image_sizes, targets)
    return {**of_proposals, **of_regions}


def test_the_four_losses_are_equal(trained):
    names = {
        "objectness": "loss_objectness",
        "proposal_box": "loss_rpn_box_reg",
        "class": "loss_classifier",
        "box": "loss_box_reg",
    }
    for ours, theirs in names.items():
        expected = trained.expected[theirs].detach()
        np.testing.assert_allclose(trained.found[ours], expected, rtol=1e-6)
        assert expected > 0.01


def test_the_gradients_of_the_losses_are_equal(trained):
    (layout, *_) = layouts_of_detector(trained.both.name)
    ours = convert_back({"params": trained.gradients}, layout)
    frozen = 0
    for name, parameter in trained.both.theirs.named_parameters():
        if not parameter.requires_grad:
            assert not ours[name].any(), name
            frozen += 1
            continue
        largest = np.max(np.abs(parameter.grad.numpy()))
        np.testing.assert_allclose(
            ours[name], parameter.grad, rtol=0, atol=1e-6 * largest, err_msg=name
        )
        assert largest > 0, name
    assert frozen == 5  # the convolutions of the stem and of the first stage


def test_both_samples_have_objects_and_background(trained):
    (anchors,), (regions,) = trained.state["anchor_sample"], trained.state["region_sample"]
    assert anchors.valid.all()
    assert anchors.indices.shape == (3, 64)
    assert regions.indices.shape == (3, 32)
    assert regions.valid.all()
