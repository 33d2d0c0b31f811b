"""Converts tensors published for PyTorch to variables of this package's networks."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from se_flax.errors import UserError
from se_flax.models.initial_values import initial_values

Rules = tuple[tuple[str, str | Callable[[re.Match], str]], ...]
Transform = Callable[[np.ndarray], np.ndarray]

_LEAVES = {
    ("params", "kernel"): "weight",
    ("params", "bias"): "bias",
    ("params", "scale"): "weight",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}
_SHOWN = 5  # tensor names shown for each kind of mismatch


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one library names the tensors of a family of networks.

    Attributes:
        source: the library's name in the possessive, for messages.
        rules: (pattern, replacement) pairs, applied in order to the path of one of our modules,
            for example `stage1_unit2/se/reduce`. Each replaces all its matches.
        ignored: pattern for the names of tensors that our network does not use.
        optional: pattern for the names of tensors that may be absent, all of them together. Then
            their variables are initialised at random.
        transforms: (pattern, function) pairs. The function is applied to tensors whose names
            match, before their axes are transposed to our order.
        fields: (field, value) pairs in which the library's network differs from the registered one.
    """

    source: str
    rules: Rules
    ignored: str = "$^"
    optional: str = "$^"
    transforms: tuple[tuple[str, Transform], ...] = ()
    fields: tuple[tuple[str, Any], ...] = ()

    def name(self, path: tuple[str, ...]) -> str:
        """Returns the name of the tensor for a variable's path (collection, *modules, leaf)."""
        collection, *modules, leaf = path
        prefix = "/".join(modules)
        for pattern, replacement in self.rules:
            prefix = re.sub(pattern, replacement, prefix)
        return f"{prefix.replace('/', '.')}.{_LEAVES[collection, leaf]}"

    @property
    def classifier_bias(self) -> str:
        """Name of the classifier's bias, by which libraries can be told apart."""
        return self.name(("params", "classifier", "bias"))


def convert(
    tensors: Mapping[str, np.ndarray],
    model: nn.Module,
    input_size: int,
    layouts: Iterable[Layout],
    new_head: bool = False,
) -> dict[str, Any]:
    """Converts tensors in one of several layouts to the variables of a network.

    Args:
        tensors: tensors by name; convolutions are [out, in, height, width] and dense layers
            [out, in].
        model: the network.
        input_size: height and width of images that the network accepts.
        layouts: possible layouts of the tensors.
        new_head: whether to ignore the tensors of the classifiers and initialise these at random.

    Raises:
        UserError: if a tensor is missing, is left over or has the wrong shape.
    """
    images = jnp.zeros((1, input_size, input_size, 3))
    abstract = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    expected = flax.traverse_util.flatten_dict(abstract)
    tensors = {k: v for k, v in tensors.items() if not k.endswith("num_batches_tracked")}
    named = {layout: {path: layout.name(path) for path in expected} for layout in layouts}
    layout = max(named, key=lambda layout: len(tensors.keys() & set(named[layout].values())))
    names = named[layout]
    optional = {path for path, name in names.items() if re.match(layout.optional, name)}
    new = {path for path in expected if new_head and path[-2].endswith("classifier")}
    if not tensors.keys() & {names[path] for path in optional}:
        new |= optional

    missing = [name for path, name in names.items() if path not in new and name not in tensors]
    known = set(names.values())
    left_over = [k for k in tensors if k not in known and not re.match(layout.ignored, k)]
    converted, misshapen = {}, []
    for path, name in names.items():
        if path in new or name not in tensors:
            continue
        value = _our_axes(tensors[name], layout, name, len(expected[path].shape))
        converted[path] = value
        if value.shape != expected[path].shape:
            misshapen.append(f"{name} {list(value.shape)} not {list(expected[path].shape)}")
    problems = {
        "missing": missing,
        "left over": left_over,
        "of the wrong shape, in JAX's order of axes": misshapen,
    }
    if any(problems.values()):
        raise UserError(
            f"the weights do not fit the network under {layout.source} tensor names: "
            + "; ".join(_listed(kind, items) for kind, items in problems.items() if items)
        )
    if new:
        fresh = initial_values(model, jax.random.key(0), images.shape[1:])
        fresh = flax.traverse_util.flatten_dict(fresh)
        converted.update({path: fresh[path] for path in new})
    return flax.traverse_util.unflatten_dict(converted)


def _listed(kind: str, names: list[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{more})"


def _our_axes(tensor: np.ndarray, layout: Layout, name: str, ndim: int) -> np.ndarray:
    for pattern, transform in layout.transforms:
        if re.match(pattern, name):
            tensor = transform(tensor)
    tensor = np.asarray(tensor, np.float32)
    if tensor.ndim == 4 and ndim == 2 and tensor.shape[2:] == (1, 1):
        tensor = tensor[:, :, 0, 0]  # a dense layer written as a 1x1 convolution
    return tensor.transpose(*range(2, tensor.ndim), 1, 0) if tensor.ndim >= 2 else tensor
