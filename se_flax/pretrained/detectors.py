"""Reads weights of detectors, in the layouts of torchvision."""

import dataclasses
import pathlib
import warnings
from typing import Any

import flax.traverse_util
import numpy as np

from se_flax.detection.create import backbone_of, create_detector
from se_flax.errors import Note, UserError
from se_flax.pretrained.convert import Layout, Rules, convert
from se_flax.pretrained.layouts import layouts_of

_INPUT_SIZE = 64  # any size does; the shapes of variables do not depend on it
_CLASSES = "roi_heads.box_predictor.cls_score.bias"
# torchvision evaluates this file, trained in an older version of it, with batch norms without the
# usual epsilon (`overwrite_eps`).
_WITHOUT_EPSILON = "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"
_EPSILON = 1e-5


# The layers of the box head whose sizes depend on the number of classes.
NEW_HEAD = ("classifier", "box_classifier")


class NewHead(Note):
    """The weights have a different number of classes, so the last layers are newly initialised."""


@dataclasses.dataclass(frozen=True)
class DetectorLayout(Layout):
    """How torchvision names the tensors of a detector.

    Attributes:
        trunk: how it names those of the trunk; `rules` are for the others.
    """

    trunk: Layout | None = None

    def name(self, path: tuple[str, ...]) -> str:
        """Returns the name of the tensor for a variable's path (collection, *modules, leaf)."""
        collection, module, *rest = path
        if module == "backbone" and self.trunk:
            return f"backbone.body.{self.trunk.name((collection, *rest))}"
        return super().name(path)


def _number(prefix: str, suffix: str = "") -> Any:
    """Returns a replacement that counts from 0 what the first group of a pattern counts from 1."""
    return lambda match: f"{prefix}/{int(match[1]) - 1}{suffix}"


_RULES: Rules = (
    (r"^fpn/lateral(\d)", _number("backbone/fpn/inner_blocks")),
    (r"^fpn/output(\d)", _number("backbone/fpn/layer_blocks")),
    (r"^rpn/unit(\d)", _number("rpn/head/conv")),
    ("^rpn/objectness$", "rpn/head/cls_logits"),
    ("^rpn/box_codes$", "rpn/head/bbox_pred"),
    (r"^box_head/unit(\d)", _number("roi_heads/box_head")),
    ("^box_head/classifier$", "roi_heads/box_predictor/cls_score"),
    ("^box_head/box_classifier$", "roi_heads/box_predictor/bbox_pred"),
    ("/conv$", "/0"),
    ("/bn$", "/1"),
)
_DENSE: Rules = (("^box_head/fc1$", "roi_heads/box_head/fc6"),)
_DENSE += (("^box_head/fc2$", "roi_heads/box_head/fc7"),)
# In the second form the dense layer follows four convolutions and a layer without parameters.
_DENSE_V2: Rules = (("^box_head/fc1$", "roi_heads/box_head/5"),)
# torchvision wrote files so until version 0.13, and still reads them.
_OLDER: Rules = ((r"((inner|layer)_blocks/\d)/0$", r"\1"), ("^rpn/head/conv/0/0$", "rpn/head/conv"))


def layouts_of_detector(name: str) -> tuple[DetectorLayout, ...]:
    """Returns the layouts in which a detector's weights are published."""
    dense = _DENSE_V2 if name.endswith("_v2") else _DENSE
    first = ("5" if name.endswith("_v2") else "fc6", _channels_last)
    return tuple(
        DetectorLayout(
            source="torchvision's",
            rules=(*dense, *_RULES, *older),
            libraries=("torchvision",),
            transforms=((rf"roi_heads\.box_head\.{first[0]}\.weight", first[1]),),
            convolutions=trunk.convolutions,
            trunk=trunk,
        )
        for trunk in layouts_of(backbone_of(name))
        for older in ((), _OLDER)
    )


def load_detector(
    name: str,
    source: str | pathlib.Path,
    tensors: dict[str, np.ndarray],
    num_classes: int | None = None,
    **overrides: Any,
) -> dict[str, Any]:
    """Returns a detector's variables; see `load_pretrained`.

    Args:
        name: of the detector.
        source: where the tensors are from, for messages.
        tensors: in one of the layouts of torchvision.
        num_classes: number of classes, including the background; by default that of the weights.
        **overrides: see `create_detector`.

    Raises:
        UserError: if the tensors do not fit the detector.
    """
    layouts = layouts_of_detector(name)
    if not layouts or _CLASSES not in tensors:
        what = "no layout is known for its trunk" if not layouts else f"it lacks {_CLASSES}"
        raise UserError(
            f'{source} has no weights for "{name}": {what}; give a state dict of torchvision\'s '
            "fasterrcnn_resnet50_fpn or fasterrcnn_resnet50_fpn_v2"
        )
    own = tensors[_CLASSES].size
    new_head = num_classes is not None and num_classes != own
    model = create_detector(name, own if num_classes is None else num_classes, **overrides)
    try:
        variables = convert(tensors, model, _INPUT_SIZE, layouts, new_head)
    except UserError as error:
        raise UserError(f'{source} has no weights for "{name}": {error}') from error
    if new_head:
        warnings.warn(
            f"the weights in {source} are for {own} classes; the last layers for {num_classes} "
            "classes are newly initialised",
            NewHead,
            stacklevel=3,
        )
    is_older = pathlib.PurePath(source).name == _WITHOUT_EPSILON
    return _with_epsilon(variables) if is_older else variables


def _with_epsilon(variables: dict[str, Any]) -> dict[str, Any]:
    """Changes the trunk's batch norms without epsilon to equal ones with it.

    The factor scale / sqrt(var) becomes scale' / sqrt(var + epsilon).
    """
    flat = flax.traverse_util.flatten_dict(variables)
    for path, var in flat.items():
        if path[:2] == ("batch_stats", "backbone") and path[-1] == "var":
            var = np.asarray(var, np.float64)
            scale = ("params", *path[1:-1], "scale")
            flat[scale] = (flat[scale] * np.sqrt((var + _EPSILON) / var)).astype(np.float32)
    return flax.traverse_util.unflatten_dict(flat)


def _channels_last(weight: np.ndarray) -> np.ndarray:
    """Reorders the inputs of the first dense layer, [c, 7, 7] there and [7, 7, c] here."""
    return weight.reshape(len(weight), -1, 7, 7).transpose(0, 2, 3, 1).reshape(len(weight), -1)
