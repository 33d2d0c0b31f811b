"""A detector whose trunk starts from a classifier's weights."""

from collections.abc import Mapping
from typing import Any

import flax.traverse_util

from se_flax.errors import UserError


def with_trunk(variables: Mapping[str, Any], classifier: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a detector's variables, with those of a classification network in its trunk.

        model = create_detector("fasterrcnn_se_resnet50_fpn")
        variables = model.init(key, images)
        variables = with_trunk(variables, load_pretrained("se_resnet50", source))

    Args:
        variables: of the detector.
        classifier: variables of the network that is the detector's trunk. Its classifier, and other
            parts that the detector does not have, are left out.

    Raises:
        UserError: if a variable of the trunk is missing or has another shape.
    """
    flat = flax.traverse_util.flatten_dict(dict(variables))
    given = flax.traverse_util.flatten_dict(dict(classifier))
    for path, value in flat.items():
        collection, module, *inner = path
        if module != "backbone":
            continue
        source = given.get((collection, *inner))
        if source is None or source.shape != value.shape:
            have = "are missing" if source is None else f"have shape {list(source.shape)}"
            raise UserError(
                f"the values of {'/'.join(inner)} {have} in the classification network, and the "
                f"trunk has shape {list(value.shape)}; give the variables of the same network"
            )
        flat[path] = source
    return flax.traverse_util.unflatten_dict(flat)
