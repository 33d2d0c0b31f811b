"""torchvision's weights of detectors are read, in its present and former tensor names."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import se_flax
from se_flax.detection import create_detector
from se_flax.errors import UserError
from se_flax.pretrained.convert import convert_back
from se_flax.pretrained.detectors import NewHead, layouts_of_detector

pytestmark = pytest.mark.references

COCO = "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"
NUM_PARAMETERS = {"fasterrcnn_resnet50_fpn": 41_755_286, "fasterrcnn_resnet50_fpn_v2": 43_712_278}


@pytest.fixture(scope="module")
def torch():
    import torch

    from tests.references import torchvision_detectors

    torchvision_detectors.use_operators_in_python()
    return torch


@pytest.fixture(scope="module")
def detector(torch):
    """torchvision's fasterrcnn_resnet50_fpn, with random weights."""
    from tests.references import torchvision_detectors

    return torchvision_detectors.build("resnet50", 91, min_size=96, max_size=128)


@pytest.fixture(scope="module")
def folder(torch, detector, tmp_path_factory):
    """Its weights: as they are, and with the tensor names of older versions."""
    folder = tmp_path_factory.mktemp("detectors")
    state = detector.state_dict()
    torch.save(state, folder / "new.pth")
    older = {
        re.sub(r"(_blocks\.\d)\.0\.|(head\.conv)\.0\.0\.", r"\1\2.", name): tensor
        for name, tensor in state.items()
    }
    assert {"backbone.fpn.inner_blocks.0.weight", "rpn.head.conv.bias"} <= older.keys()
    torch.save(older, folder / "old.pth")
    torch.save(older, folder / COCO)
    return folder


def test_present_and_former_names_are_read(detector, folder):
    new, old = (
        se_flax.load_pretrained("fasterrcnn_resnet50_fpn", folder / name)
        for name in ("new.pth", "old.pth")
    )
    jax.tree.map(np.testing.assert_array_equal, new, old)
    (layout, *_) = layouts_of_detector("fasterrcnn_resnet50_fpn")
    back = convert_back(new, layout)
    for name, tensor in detector.state_dict().items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


def test_the_published_file_has_batch_norms_without_epsilon(torch, detector, folder):
    import torchvision

    images = np.random.default_rng(0).standard_normal((1, 64, 96, 3), np.float32)
    model = create_detector("fasterrcnn_resnet50_fpn")
    levels = jax.jit(lambda v: model.apply(v, jnp.asarray(images), method="levels"))
    norms = [
        module
        for module in detector.modules()
        if isinstance(module, torchvision.ops.FrozenBatchNorm2d)
    ]
    try:
        # Small variances, where the epsilon matters.
        scale = 1e-3
        for norm in norms:
            norm.running_var *= scale
            norm.weight *= scale**0.5
        torch.save(detector.state_dict(), folder / COCO)
        torchvision.models.detection._utils.overwrite_eps(detector, 0.0)
        with torch.no_grad():
            expected = detector.backbone(torch.from_numpy(images).permute(0, 3, 1, 2))
    finally:
        for norm in norms:
            norm.running_var /= scale
            norm.weight /= scale**0.5
            norm.eps = 1e-5
    found = levels(se_flax.load_pretrained("fasterrcnn_resnet50_fpn", folder / COCO))
    (folder / COCO).rename(folder / "renamed.pth")
    other = levels(se_flax.load_pretrained("fasterrcnn_resnet50_fpn", folder / "renamed.pth"))
    for ours, wrong, theirs in zip(found, other, expected.values(), strict=True):
        theirs = theirs.permute(0, 2, 3, 1).numpy()
        largest = np.max(np.abs(theirs))
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * largest)
        assert np.max(np.abs(wrong - theirs)) > 1e-2 * largest


@pytest.mark.parametrize("name", NUM_PARAMETERS)
def test_torchvisions_own_detectors_have_the_tensors_of_ours(torch, name, tmp_path):
    import torchvision

    theirs = vars(torchvision.models.detection)[name](weights=None, weights_backbone=None)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    variables = se_flax.load_pretrained(name, tmp_path / "weights.pth")
    total = sum(x.size for x in jax.tree.leaves(variables["params"]))
    assert total == sum(parameter.numel() for parameter in theirs.parameters())
    # In the first form, torchvision's count leaves out batch norms, which are frozen.
    trunk_norms = 2 * 26_560 if name == "fasterrcnn_resnet50_fpn" else 0
    assert total - trunk_norms == NUM_PARAMETERS[name]


def test_another_number_of_classes_starts_new_last_layers(folder):
    whole = se_flax.load_pretrained("fasterrcnn_resnet50_fpn", folder / "new.pth")
    with pytest.warns(NewHead, match="are for 91 classes; the last layers for 5"):
        found = se_flax.load_pretrained(
            "fasterrcnn_resnet50_fpn", folder / "new.pth", num_classes=5
        )
    head = found["params"]["box_head"]
    assert head["classifier"]["kernel"].shape == (1024, 5)
    assert head["box_classifier"]["kernel"].shape == (1024, 20)
    for name in ("fpn", "rpn", "backbone"):
        jax.tree.map(np.testing.assert_array_equal, found["params"][name], whole["params"][name])


def test_weights_of_other_networks_are_refused(torch, folder, tmp_path):
    with pytest.raises(UserError, match=r'no weights for "fasterrcnn_resnet50_fpn_v2": .*missing'):
        se_flax.load_pretrained("fasterrcnn_resnet50_fpn_v2", folder / "new.pth")
    torch.save({"fc.weight": torch.zeros(3, 4)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"it lacks roi_heads\.box_predictor.cls_score.bias"):
        se_flax.load_pretrained("fasterrcnn_resnet50_fpn", tmp_path / "other.pth")
