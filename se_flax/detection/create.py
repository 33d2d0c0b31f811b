"""Detectors by name."""

import dataclasses
import re
import typing
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from se_flax.detection.faster_rcnn import FasterRCNN
from se_flax.errors import UserError, nearest
from se_flax.models import Preparation, create_model, model_info, registry

_NAME = re.compile(r"fasterrcnn_(\w+?)_fpn(_v2)?")
# torchvision's second form (Li et al., arXiv:2111.11429, section 2.2).
_V2 = {"norm": True, "proposal_convs": 2, "head_convs": 4, "head_layers": 1}
_BACKBONES = ("resnet50", "se_resnet50", "resnet101", "se_resnet101")


def list_detectors() -> list[str]:
    """Returns the names of the detectors whose trunks are those of the SE paper, sorted.

    `create_detector` also accepts other trunks.
    """
    forms = ("{}_fpn", "{}_fpn_v2", "{}_caffe_fpn")
    return sorted(f"fasterrcnn_{form.format(name)}" for name in _BACKBONES for form in forms)


def is_detector(name: str) -> bool:
    """Returns whether a name has the form of a detector's."""
    return _NAME.fullmatch(name) is not None


def backbone_of(name: str) -> str:
    """Returns the name of a detector's trunk; raises `UserError` if it is no detector's name."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise UserError(
            f'there is no detector "{name}"{nearest(name, list_detectors())}; a name is '
            "fasterrcnn_BACKBONE_fpn or fasterrcnn_BACKBONE_fpn_v2, for example "
            "fasterrcnn_se_resnet50_fpn"
        )
    return match[1]


def create_detector(
    name: str, num_classes: int = 91, *, dtype: DTypeLike = jnp.float32, **overrides: Any
) -> FasterRCNN:
    """Builds a detector.

        model = create_detector("fasterrcnn_se_resnet50_fpn")
        variables = model.init(key, images)
        found = model.apply(variables, images, sizes)

    Args:
        name: `fasterrcnn_BACKBONE_fpn`, where BACKBONE is a network of `list_models()` with stages
            of strides 4, 8, 16 and 32: residual networks for ImageNet, with or without SE blocks,
            VGG-16 and EfficientNets. With `_v2` at the end, the pyramid and the box head have batch
            norms, and there are more convolutions (torchvision's second form).
        num_classes: number of classes, including the background, which is class 0; COCO's numbers
            go to 90.
        dtype: computation type; parameters, boxes and scores are float32.
        **overrides: fields of `FasterRCNN` or of the trunk (see `create_model`).

    Raises:
        UserError: if there is no detector of this name, or a field or its value is invalid.
    """
    backbone = backbone_of(name)
    if not isinstance(num_classes, int) or num_classes < 2:
        raise UserError(
            f"num_classes must be a whole number of at least 2, as it includes the background, "
            f"not {num_classes!r}"
        )
    trunks = of_trunk(overrides)
    fields = dict(_V2) if name.endswith("_v2") else {}
    fields.update({field: value for field, value in overrides.items() if field not in trunks})
    trunk = create_model(backbone, dtype=dtype, **trunks)
    return FasterRCNN(backbone=trunk, num_classes=num_classes, dtype=dtype, **fields)


def of_trunk(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those overrides of `create_detector` that are fields of the trunk."""
    own = {field.name for field in dataclasses.fields(FasterRCNN)}
    own -= {"backbone", "num_classes", "dtype", "parent", "name"}
    return {field: value for field, value in overrides.items() if field not in own}


def field_type(name: str, field: str, se: str | None = None) -> type:
    """Returns the type of a field that `create_detector` accepts, for reading it from text.

    For arguments and errors see `se_flax.models.registry.field_type`.
    """
    if of_trunk({field: None}):
        return registry.field_type(backbone_of(name), field, se)
    annotation = {known.name: known.type for known in dataclasses.fields(FasterRCNN)}[field]
    return typing.get_origin(annotation) or annotation


def normalisation(name: str) -> Preparation:
    """Returns how a detector's images are normalised: those of its trunk, see `model_info`."""
    return model_info(backbone_of(name)).preparation
