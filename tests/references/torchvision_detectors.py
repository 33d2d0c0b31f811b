"""torchvision's Faster R-CNN, with random weights that find objects.

Where torchvision's compiled operators do not load, RoIAlign is its own form in Python, and
non-maximum suppression is written here from its definition.
"""

import importlib
import inspect

import numpy as np
import torch

from tests.references import torch_models

torchvision = torch_models.torchvision
faster_rcnn = torchvision.models.detection.faster_rcnn
backbone_utils = torchvision.models.detection.backbone_utils
FrozenBatchNorm2d = torchvision.ops.misc.FrozenBatchNorm2d


def use_operators_in_python() -> None:
    """Replaces compiled operators that are missing."""
    if torchvision.extension._has_ops():
        return
    align = importlib.import_module("torchvision.ops.roi_align")
    align._roi_align = inspect.unwrap(align._roi_align)  # not compiled when first used
    align.is_compile_supported = lambda device: True
    importlib.import_module("torchvision.ops.boxes").nms = nms


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Returns the indices of the boxes that greedy suppression keeps, best first."""
    order = torch.argsort(scores, descending=True, stable=True)
    overlaps = torchvision.ops.box_iou(boxes, boxes)
    kept = []
    for i in order.tolist():
        if not any(overlaps[i, j] > iou_threshold for j in kept):
            kept.append(i)
    return torch.tensor(kept, dtype=torch.int64)


def trunk(name: str, norm: type[torch.nn.Module]) -> torch.nn.Module:
    """Returns a residual network with random weights and fitting statistics."""
    network = torch_models.randomise(torch_models.build(f"torchvision:{name}"), 96)
    result = vars(torchvision.models)[name](norm_layer=norm)
    result.load_state_dict(network.state_dict())
    return result


def build(name: str, num_classes: int, **options) -> torch.nn.Module:
    """Returns torchvision's first form over a residual network, with frozen batch norms."""
    body = backbone_utils._resnet_fpn_extractor(trunk(name, FrozenBatchNorm2d), 3)
    return _spread_out(faster_rcnn.FasterRCNN(body, num_classes, **options))


def build_v2(name: str, num_classes: int, **options) -> torch.nn.Module:
    """Returns torchvision's second form over a residual network."""
    norm = torch.nn.BatchNorm2d
    body = backbone_utils._resnet_fpn_extractor(trunk(name, norm), 5, norm_layer=norm)
    of_proposals = faster_rcnn.RPNHead(256, 3, conv_depth=2)
    head = faster_rcnn.FastRCNNConvFCHead((256, 7, 7), [256] * 4, [1024], norm_layer=norm)
    model = faster_rcnn.FasterRCNN(
        body, num_classes, rpn_head=of_proposals, box_head=head, **options
    )
    generator = torch.Generator().manual_seed(1)
    for module in [*body.fpn.modules(), *head.modules()]:
        if isinstance(module, norm):
            for tensor in (module.weight.data, module.bias.data, module.running_mean):
                tensor += torch.empty_like(tensor).uniform_(-0.2, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
    return _spread_out(model)


def _spread_out(model: torch.nn.Module) -> torch.nn.Module:
    """Gives the last layers weights with which scores and boxes differ; returns the model."""
    last = model.roi_heads.box_predictor
    for module, spread in (
        (model.rpn.head.cls_logits, 2.0),
        (model.rpn.head.bbox_pred, 0.4),
        (last.cls_score, 2.0),
        (last.bbox_pred, 1.0),
    ):
        _spread_when_called(module, spread)
    with torch.no_grad():
        model.eval()([torch.rand(3, 96, 128, generator=torch.Generator().manual_seed(2))])
    return model


def _spread_when_called(module: torch.nn.Module, spread: float) -> None:
    """Gives each of a layer's outputs this standard deviation, and a mean near 0, at its next call.

    Otherwise all regions would be of the same class.
    """

    def scale(module, inputs, output):
        handle.remove()
        each = output.movedim(1, 0).flatten(1)
        factor = spread / each.std(1).mean()
        module.bias.copy_(factor * (module.bias - each.mean(1)))
        module.bias += torch.empty_like(module.bias).uniform_(
            -spread / 4, spread / 4, generator=torch.Generator().manual_seed(3)
        )
        module.weight *= factor
        return module.forward(*inputs)

    handle = module.register_forward_hook(scale)


class Given:
    """A sampler that chooses boxes that are given."""

    def __init__(self, indices: list[np.ndarray]):
        self.indices = indices

    def __call__(self, labels: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Returns masks of the objects and of the background that are chosen, for each image."""
        objects, background = [], []
        for each, indices in zip(labels, self.indices, strict=True):
            chosen = torch.zeros(len(each), dtype=torch.bool)
            chosen[torch.from_numpy(np.array(indices))] = True
            assert not (chosen & (each < 0)).any()
            objects.append((chosen & (each > 0)).to(torch.uint8))
            background.append((chosen & (each == 0)).to(torch.uint8))
        return objects, background
