"""Faster R-CNN with a feature pyramid, over any network whose stages halve the resolution.

The detector is that of Lin et al., arXiv:1612.03144, section 5.2, as torchvision computes it. All
shapes are fixed: images are padded to one size, and so are the numbers of true boxes, proposals and
detections. A program is compiled once for each size of the padded images.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Key

from se_flax.detection.anchors import ASPECT_RATIOS, SIZES, level_anchors
from se_flax.detection.boxes import HEAD_WEIGHTS, encode
from se_flax.detection.heads import BoxHead, Detections, detections_of
from se_flax.detection.losses import head_losses, proposal_losses
from se_flax.detection.matching import Truth, assign, picked, sample
from se_flax.detection.proposals import ProposalHead, Proposals, propose
from se_flax.detection.pyramid import STRIDES, FeaturePyramid, pool_regions
from se_flax.errors import UserError

# The parts of the trunk that Detectron and torchvision do not train.
FROZEN = ("stem", "stage1")
Levels = list[Float[Array, "n _ _ c"]]


class Batch(NamedTuple):
    """Images to train on.

    Attributes:
        images: normalised, and padded with zeros below and to the right.
        sizes: height and width of each image without padding, in pixels.
        truth: the true boxes, in pixels of these images.
    """

    images: Float[Array, "n h w 3"]
    sizes: Float[Array, "n 2"]
    truth: Truth


class FasterRCNN(nn.Module, kw_only=True):
    """A two-stage detector.

    The trunk's batch norms always use their running statistics, and neither they nor the parts in
    `frozen` are trained (see `losses`). The default fields are torchvision's.

    Attributes:
        backbone: the trunk, a network of `create_model`, of which only the feature maps are used.
        num_classes: number of classes, including the background, which is class 0.
        pyramid_width: number of channels of the pyramid.
        norm: whether the pyramid has batch norms.
        proposal_convs: number of 3x3 convolutions of the region proposal network.
        head_convs, head_layers, head_width: see `BoxHead`.
        proposals_before, proposals_after: see `propose`.
        train_proposals_before, train_proposals_after: the same numbers for training.
        anchors_drawn: number of anchors of an image that losses are computed for, half of them
            objects if there are as many.
        regions_drawn: number of regions of an image that losses are computed for, a quarter of
            them objects if there are as many.
        score_threshold, detections: see `detections_of`.
        frozen: the parts of the trunk that are not trained, by the beginnings of its submodules'
            names.
        dtype: computation type of the pyramid and the heads.
    """

    backbone: nn.Module
    num_classes: int = 91
    pyramid_width: int = 256
    norm: bool = False
    proposal_convs: int = 1
    head_convs: int = 0
    head_layers: int = 2
    head_width: int = 1024
    proposals_before: int = 1000
    proposals_after: int = 1000
    train_proposals_before: int = 2000
    train_proposals_after: int = 2000
    anchors_drawn: int = 256
    regions_drawn: int = 512
    score_threshold: float = 0.05
    detections: int = 100
    frozen: tuple[str, ...] = FROZEN
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """Creates the pyramid and the heads."""
        self.fpn = FeaturePyramid(self.pyramid_width, self.norm, self.dtype)
        self.rpn = ProposalHead(len(ASPECT_RATIOS), self.proposal_convs, self.dtype)
        self.box_head = BoxHead(
            self.num_classes, self.head_convs, self.head_layers, self.head_width, self.dtype
        )

    def __call__(
        self,
        images: Float[ArrayLike, "n h w 3"],
        sizes: Float[ArrayLike, "n 2"] | None = None,
        train: bool = False,
    ) -> Detections:
        """Returns the objects in images.

        Args:
            images: see `Batch`. Height and width are multiples of 32.
            sizes: see `Batch`; by default the images have no padding.
            train: has no effect; every network of this package is called with it.

        Raises:
            UserError: if the height or width is not a multiple of 32, or the trunk has no maps of
                the pyramid's resolutions.
        """
        images = jnp.asarray(images)
        if sizes is None:
            sizes = jnp.broadcast_to(jnp.asarray(images.shape[1:3], jnp.float32), (len(images), 2))
        sizes = jnp.asarray(sizes)
        levels = self.levels(images)
        proposals = propose(
            *self.rpn(levels),
            self.anchors(images, levels),
            sizes,
            self.proposals_before,
            self.proposals_after,
        )
        self.sow("intermediates", "proposals", proposals)
        logits, codes = self.box_head(pool_regions(levels, proposals.boxes))
        return detections_of(
            logits, codes, proposals, sizes, self.score_threshold, count=self.detections
        )

    def levels(self, images: Float[Array, "n h w 3"]) -> Levels:
        """Returns the pyramid's maps, P2 to P6; for arguments and errors see `__call__`."""
        size = images.shape[1:3]
        if any(pixels % STRIDES[-1] for pixels in size):
            raise UserError(
                f"images of {size[0]} x {size[1]} must be padded so that height and width are "
                f"multiples of {STRIDES[-1]}"
            )
        maps = self.backbone(images, train=False, features=True)
        maps.pop("head", None)  # not a stage
        stages = {x.shape[1:3]: x for x in maps.values()}
        wanted = [tuple(pixels // stride for pixels in size) for stride in STRIDES]
        if missing := [
            stride for stride, x in zip(STRIDES, wanted, strict=True) if x not in stages
        ]:
            raise UserError(
                f"the backbone {type(self.backbone).__name__} has no feature map of stride "
                f"{missing[0]}; use one whose stages have strides 4, 8, 16 and 32, such as "
                "se_resnet50"
            )
        return self.fpn([stages[x] for x in wanted])

    def anchors(self, images: Float[Array, "n h w 3"], levels: Levels) -> list[Array]:
        """Returns the anchors of each level, [_, 4], in pixels of the padded images."""
        return [
            jnp.asarray(level_anchors(images.shape[1:3], level.shape[1:3], size))
            for level, size in zip(levels, SIZES, strict=True)
        ]

    def losses(self, batch: Batch, key: Key[Array, ""]) -> dict[str, Float[Array, ""]]:
        """Returns the four losses; see the function `losses`."""
        of_anchors, of_regions = jax.random.split(key)
        levels = self.levels(batch.images)
        logits, codes = self.rpn(levels)
        anchors = self.anchors(batch.images, levels)
        proposals = propose(
            logits,
            codes,
            anchors,
            batch.sizes,
            self.train_proposals_before,
            self.train_proposals_after,
        )
        self.sow("intermediates", "proposals", proposals)
        objectness, proposal_box = self._proposal_losses(
            jnp.concatenate(logits, axis=1),
            jnp.concatenate(codes, axis=1),
            jnp.concatenate(anchors),
            batch.truth,
            of_anchors,
        )
        of_class, box = self._head_losses(levels, proposals, batch.truth, of_regions)
        return {
            "objectness": objectness,
            "proposal_box": proposal_box,
            "class": of_class,
            "box": box,
        }

    def _proposal_losses(self, logits, codes, anchors, truth, key):
        n = len(logits)
        anchors = jnp.broadcast_to(anchors, (n, *anchors.shape))
        objects = truth._replace(labels=jnp.ones_like(truth.labels))
        every = jnp.ones(logits.shape, bool)
        targets = assign(anchors, every, objects, high=0.7, low=0.3, low_quality=True)
        drawn = sample(key, targets.labels, self.anchors_drawn, fraction=0.5)
        self.sow("intermediates", "anchor_sample", drawn)
        return proposal_losses(
            picked(logits, drawn),
            picked(codes, drawn),
            picked(targets.labels, drawn),
            encode(picked(targets.boxes, drawn), picked(anchors, drawn)),
            drawn.valid,
        )

    def _head_losses(self, levels: Levels, proposals: Proposals, truth: Truth, key):
        # As in torchvision, the true boxes are proposals, too.
        boxes = jnp.concatenate([proposals.boxes, truth.boxes], axis=1)
        valid = jnp.concatenate([proposals.valid, truth.valid], axis=1)
        targets = assign(boxes, valid, truth, high=0.5, low=0.5)
        drawn = sample(key, targets.labels, self.regions_drawn, fraction=0.25)
        self.sow("intermediates", "region_sample", drawn)
        regions = picked(boxes, drawn)
        logits, codes = self.box_head(pool_regions(levels, regions))
        wanted = encode(picked(targets.boxes, drawn), regions, HEAD_WEIGHTS)
        return head_losses(logits, codes, picked(targets.labels, drawn), wanted, drawn.valid)


def detect(
    model: FasterRCNN,
    variables: dict[str, Any],
    images: Float[ArrayLike, "n h w 3"],
    sizes: Float[ArrayLike, "n 2"],
) -> Detections:
    """Returns the objects in images; a pure function, to be compiled with `jax.jit`.

    Args:
        model: the detector.
        variables: of the detector.
        images, sizes: see `Batch`.

    Raises:
        UserError: see `FasterRCNN`.
    """
    return model.apply(variables, images, sizes)


def losses(
    model: FasterRCNN, variables: dict[str, Any], batch: Batch, key: Key[Array, ""]
) -> dict[str, Float[Array, ""]]:
    """Returns the four losses, whose sum is minimised; a pure function of one device's share.

    `objectness` and `proposal_box` are those of the region proposal network, `class` and `box`
    those of the box head. The gradient for parameters that are not `trainable` is 0, and no time
    is spent on it. No variable changes except by the gradient.

    Args:
        model: the detector.
        variables: of the detector.
        batch: the images.
        key: for the draw of anchors and regions.

    Raises:
        UserError: see `FasterRCNN`.
    """
    trained = trainable(model, variables["params"])
    params = jax.tree.map(
        lambda x, is_trained: x if is_trained else jax.lax.stop_gradient(x),
        variables["params"],
        trained,
    )
    return model.apply({**variables, "params": params}, batch, key, method="losses")


def trainable(model: FasterRCNN, params: dict[str, Any]) -> dict[str, Any]:
    """Returns for each parameter whether it is trained, in the structure of `params`.

    Those of the trunk's batch norms and of its parts in `model.frozen` are not. An optimiser must
    leave them out of the weight decay as well.
    """
    flat = flax.traverse_util.flatten_dict(params)
    norms = {path[:-1] for path in flat if path[-1] == "scale"}

    def is_trained(path):
        if path[0] != "backbone":
            return True
        return path[:-1] not in norms and path[1].partition("_")[0] not in model.frozen

    return flax.traverse_util.unflatten_dict({path: is_trained(path) for path in flat})
