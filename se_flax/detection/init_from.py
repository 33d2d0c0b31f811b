"""The published weights that a detector's training starts from."""

from typing import Any

import jax
import jax.numpy as jnp

from se_flax import rng
from se_flax.detection.create import backbone_of, create_detector, of_trunk
from se_flax.detection.pyramid import STRIDES
from se_flax.detection.trunk import with_trunk
from se_flax.errors import printing_notes
from se_flax.pretrained.detectors import NEW_HEAD, NewHead, load_detector
from se_flax.pretrained.load import load_pretrained, read_tensors


def starting_variables(
    name: str, source: str, num_classes: int, overrides: dict[str, Any]
) -> dict[str, Any]:
    """Returns the variables that a detector starts from; the others are to be new.

    Args:
        name: of the detector.
        source: a `source` for `load_pretrained` with weights of the trunk, a network for
            classification, or of the whole detector. Of a detector for another number of classes,
            all but the last layers are used; a printed line says so.
        num_classes: number of classes, including the background.
        overrides: see `create_detector`.

    Raises:
        UserError: if the weights cannot be read, or are neither the trunk's nor the detector's.
    """
    tensors = read_tensors(source)
    if any(tensor.startswith("rpn.") for tensor in tensors):
        return _of_detector(name, source, tensors, num_classes, overrides)
    backbone = backbone_of(name)
    classifier = load_pretrained(backbone, source, **of_trunk(overrides))
    model = create_detector(name, num_classes, **overrides)
    side = 2 * STRIDES[-1]  # any size does; the shapes of variables do not depend on it
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, rng.key(0, rng.Stream.INIT), images)
    variables = with_trunk(shapes, classifier)
    return {
        collection: {"backbone": variables.get(collection, {}).get("backbone", {})}
        for collection in ("params", "batch_stats")
    }


def _of_detector(name, source, tensors, num_classes, overrides) -> dict[str, Any]:
    with printing_notes() as notes:
        variables = load_detector(name, source, tensors, num_classes, **overrides)
    if any(issubclass(note.category, NewHead) for note in notes):
        head = variables["params"]["box_head"]
        kept = {layer: value for layer, value in head.items() if layer not in NEW_HEAD}
        variables = {**variables, "params": {**variables["params"], "box_head": kept}}
    return variables
