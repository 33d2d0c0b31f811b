"""Converts tensors published for PyTorch to variables of this package's networks, and back."""

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
        libraries: names of the libraries that read tensors in this layout, for `--layout`.
        rules: (pattern, replacement) pairs, applied in order to the path of one of our modules,
            for example `stage1_unit2/se/reduce`. Each replaces all its matches.
        ignored: pattern for the names of tensors that our network does not use.
        optional: pattern for the names of tensors that may be absent, all of them together. Then
            their variables are initialised at random.
        transforms: (pattern, function) pairs. The function is applied to tensors whose names
            match, before their axes are transposed to our order. It may only reorder numbers.
        convolutions: (pattern, size) pairs. Our dense layers whose weights have such names are
            written as convolutions there, with kernels of size x size.
        verbatim: whether tensors have our own names and axes.
        fields: (field, value) pairs in which the library's network differs from the registered one.
    """

    source: str
    rules: Rules
    libraries: tuple[str, ...] = ()
    ignored: str = "$^"
    optional: str = "$^"
    transforms: tuple[tuple[str, Transform], ...] = ()
    convolutions: tuple[tuple[str, int], ...] = ()
    fields: tuple[tuple[str, Any], ...] = ()
    verbatim: bool = False

    def name(self, path: tuple[str, ...]) -> str:
        """Returns the name of the tensor for a variable's path (collection, *modules, leaf)."""
        if self.verbatim:
            return "/".join(path)
        collection, *modules, leaf = path
        prefix = "/".join(modules)
        for pattern, replacement in self.rules:
            prefix = re.sub(pattern, replacement, prefix)
        return f"{prefix.replace('/', '.')}.{_LEAVES[collection, leaf]}"

    @property
    def classifier_bias(self) -> str:
        """Name of the classifier's bias, by which libraries can be told apart."""
        return self.name(("params", "classifier", "bias"))


# Files that this package writes (see `se_flax.pretrained.save`).
OWN = Layout(
    source="our own",
    rules=(),
    ignored="[a-z_]+/auxiliary_",
    optional="[a-z_]+/auxiliary_",
    verbatim=True,
)


def convert(
    tensors: Mapping[str, np.ndarray],
    model: nn.Module,
    input_size: int,
    layouts: Iterable[Layout],
    new_head: bool = False,
    channels: int = 3,
) -> dict[str, Any]:
    """Converts tensors in one of several layouts to the variables of a network.

    Args:
        tensors: tensors by name; convolutions are [out, in, height, width] and dense layers
            [out, in].
        model: the network.
        input_size: height and width of images that the network accepts.
        layouts: possible layouts of the tensors.
        new_head: whether to ignore the tensors of the classifiers and initialise these at random.
        channels: number of channels of the images.

    Raises:
        UserError: if a tensor is missing, is left over or has the wrong shape.
    """
    images = jnp.zeros((1, input_size, input_size, channels))
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


def convert_back(
    variables: Mapping[str, Any], layout: Layout, auxiliary: bool = True
) -> dict[str, np.ndarray]:
    """Converts a network's variables to tensors in a layout, the inverse of `convert`.

    PyTorch also counts the batches that a batch norm has seen, which has no effect in evaluation;
    the count is written as 0.

    Args:
        variables: of the network.
        layout: names and axes of the tensors.
        auxiliary: whether to keep the tensors of an auxiliary classifier.

    Returns:
        Tensors by name; convolutions are [out, in, height, width] and dense layers [out, in].
    """
    tensors = {}
    for path, value in flax.traverse_util.flatten_dict(dict(variables)).items():
        name = layout.name(path)
        if not auxiliary and re.match(layout.optional, name):
            continue
        tensors[name] = _their_axes(np.asarray(value), layout, name)
        if not layout.verbatim and path[-1] == "mean":
            prefix = name.removesuffix("running_mean")
            tensors[f"{prefix}num_batches_tracked"] = np.zeros((), np.int64)
    return tensors


def _listed(kind: str, names: list[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{more})"


def _our_axes(tensor: np.ndarray, layout: Layout, name: str, ndim: int) -> np.ndarray:
    if layout.verbatim:
        return tensor
    for pattern, transform in layout.transforms:
        if re.match(pattern, name):
            tensor = transform(tensor)
    tensor = np.asarray(tensor, np.float32)
    if tensor.ndim == 4 and ndim == 2 and tensor.shape[2:] == (1, 1):
        tensor = tensor[:, :, 0, 0]  # a dense layer written as a 1x1 convolution
    return tensor.transpose(*range(2, tensor.ndim), 1, 0) if tensor.ndim >= 2 else tensor


def _their_axes(value: np.ndarray, layout: Layout, name: str) -> np.ndarray:
    """Inverts `_our_axes`."""
    if layout.verbatim:
        return np.ascontiguousarray(value)
    if value.ndim >= 2:
        value = value.transpose(-1, -2, *range(value.ndim - 2))
    shape = value.shape
    for pattern, size in layout.convolutions:
        if re.match(pattern, name) and value.ndim == 2:
            shape = (shape[0], shape[1] // size**2, size, size)
    transforms = [one for pattern, one in layout.transforms if re.match(pattern, name)]
    if not transforms:
        return np.ascontiguousarray(value.reshape(shape))
    places = np.arange(value.size, dtype=np.int32).reshape(shape)
    for transform in transforms:
        places = transform(places)
    theirs = np.empty(value.size, value.dtype)
    theirs[places.ravel()] = value.ravel()
    return theirs.reshape(shape)
