"""torchvision's Faster R-CNN, ready to be timed on a CPU.

Where its compiled operators do not load, suppression is a loop over rows in NumPy, and RoIAlign is
`torch.nn.functional.embedding_bag`, which needs less memory than torchvision's own form in Python.
"""

import importlib

import numpy as np
import torch
from torch import Tensor

from experiments.peers import torchvision_operators  # noqa: F401  before torchvision

import torchvision  # isort: skip
from torchvision.models.detection import backbone_utils, faster_rcnn  # isort: skip


def detector(trunk: str, num_classes: int) -> torch.nn.Module:
    """Returns the detector with random weights and frozen batch norms, which takes images as given.

    The last batch norm of each unit is 0, so that maps do not grow from unit to unit.
    """
    use_fast_operators()
    frozen = torchvision.ops.misc.FrozenBatchNorm2d
    network = vars(torchvision.models)[trunk](norm_layer=frozen)
    for name, module in network.named_modules():
        if name.endswith("bn3"):
            torch.nn.init.zeros_(module.weight)
    body = backbone_utils._resnet_fpn_extractor(network, 3)
    nothing = [0.0] * 3, [1.0] * 3  # images are normalised
    return faster_rcnn.FasterRCNN(
        body, num_classes, image_mean=nothing[0], image_std=nothing[1], _skip_resize=True
    )


def has_operators() -> bool:
    """Returns whether torchvision's compiled operators have loaded."""
    return torchvision.extension._has_ops()


def use_fast_operators() -> None:
    """Replaces compiled operators that are missing."""
    if has_operators():
        return
    importlib.import_module("torchvision.ops.boxes").nms = nms
    importlib.import_module("torchvision.ops.poolers").roi_align = roi_align


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Returns the indices of the boxes that greedy suppression keeps, best first."""
    order = torch.argsort(scores, descending=True, stable=True).numpy()
    x1, y1, x2, y2 = boxes.detach().numpy()[order].T
    areas = (x2 - x1) * (y2 - y1)
    left = np.arange(len(order))
    kept = []
    while len(left):
        i, left = left[0], left[1:]
        kept.append(i)
        width = np.minimum(x2[i], x2[left]) - np.maximum(x1[i], x1[left])
        height = np.minimum(y2[i], y2[left]) - np.maximum(y1[i], y1[left])
        shared = np.maximum(width, 0) * np.maximum(height, 0)
        left = left[shared <= iou_threshold * (areas[i] + areas[left] - shared)]
    return torch.from_numpy(order[kept])


def roi_align(
    x: Tensor, rois: Tensor, output_size: tuple[int, int], spatial_scale: float, sampling_ratio: int
) -> Tensor:
    """Returns the maps of regions [k, 5], each with the index of its image; as `aligned=False`."""
    _, channels, height, width = x.shape
    image = rois[:, 0].long()[:, None, None, None, None]
    x1, y1, x2, y2 = (rois[:, 1:] * spatial_scale).T
    rows, row_weights = _nearest(y1, y2, output_size[0], sampling_ratio, height)
    columns, column_weights = _nearest(x1, x2, output_size[1], sampling_ratio, width)
    index = (image * height + rows[:, :, None, :, None]) * width + columns[:, None, :, None, :]
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]
    table = x.permute(0, 2, 3, 1).reshape(-1, channels)
    points = (2 * sampling_ratio) ** 2
    maps = torch.nn.functional.embedding_bag(
        index.reshape(-1, points),
        table,
        mode="sum",
        per_sample_weights=weights.reshape(-1, points),
    )
    return maps.reshape(len(rois), *output_size, channels).permute(0, 3, 1, 2)


def _nearest(
    low: Tensor, high: Tensor, bins: int, samples: int, positions: int
) -> tuple[Tensor, Tensor]:
    """Returns the positions next to each point of an axis and their weights, [k, bins, 2 samples].

    The weights have a sum of 1 in each bin.
    """
    size = (high - low).clamp(min=1) / bins
    points = low[:, None] + (torch.arange(bins * samples) + 0.5) * size[:, None] / samples
    inside = (points >= -1) & (points <= positions)
    points = points.clamp(0, positions - 1)
    before = points.long()
    part = points - before
    index = torch.stack([before, (before + 1).clamp(max=positions - 1)], dim=-1)
    weights = torch.stack([1 - part, part], dim=-1) * inside[..., None] / samples
    shape = (len(low), bins, 2 * samples)  # there may be no regions
    return index.reshape(shape), weights.reshape(shape)
