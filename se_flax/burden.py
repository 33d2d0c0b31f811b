"""Counts parameters, memory and multiply-adds: python -m se_flax.burden "se_resnet*"."""

import csv
import dataclasses
import fnmatch
import functools
import importlib.resources
import math
from typing import Any

import flax.linen as nn
import jax
import jax.extend.core as jex
import jax.numpy as jnp
from absl import app, flags

from se_flax.cli.command import parse_flags, run_command
from se_flax.detection import FasterRCNN, create_detector, list_detectors
from se_flax.detection.create import is_detector
from se_flax.detection.pyramid import BINS
from se_flax.errors import UserError, nearest
from se_flax.models import create_model, list_models, model_info

_BYTES = 4  # size of a float32
_MB = 2**20
DETECTOR_SIZE, DETECTOR_CLASSES = 800, 91  # torchvision's, for its published figures


@dataclasses.dataclass(frozen=True)
class Burden:
    """The cost of one forward pass over one image.

    Attributes:
        parameters: number of parameters, without batch statistics.
        parameter_mb: memory of parameters and batch statistics in float32, in units of 2^20 bytes.
        feature_mb: memory of all layers' outputs in float32, without re-use, in units of 2^20
            bytes. Layers are convolutions and dense layers (each including its bias), batch
            norms, poolings, concatenations, sums, sigmoids (including swish), tanh and scalings
            by a gate. A ReLU works in place, and so does the sum after a scaling, as in the
            networks that the authors of the SE paper released. A detector's are those of the trunk,
            the pyramid and the heads, and the maps of the regions; boxes and scores do not count.
        multiply_adds: number of multiply-adds in all convolutions and matrix products. A detector's
            box head computes as many regions as there are places (`FasterRCNN.proposals_after`).
    """

    parameters: int
    parameter_mb: float
    feature_mb: float
    multiply_adds: int


def burden(model: nn.Module, input_size: int, channels: int = 3) -> Burden:
    """Computes the burden of a network by tracing it.

    Args:
        model: network of `create_model` or `create_detector`, or one with their call signature.
        input_size: height and width of the image; for a detector with the padding, so a multiple
            of 32.
        channels: number of channels of the image.

    Raises:
        UserError: see `FasterRCNN`.
    """
    images = jax.ShapeDtypeStruct((1, input_size, input_size, channels), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    leaves, structure = jax.tree.flatten(variables)

    def forward(inputs, *leaves):
        variables = jax.tree.unflatten(structure, leaves)
        if isinstance(model, FasterRCNN):
            return model.apply(variables, *inputs, method=_layers_of_detector)
        return model.apply(variables, *inputs, train=False)

    graph, inputs, buffers = _Graph(), [images], [_Buffer("image", images.size)]
    if isinstance(model, FasterRCNN):
        inputs.append(_regions(model))
        buffers.append(graph.new("regions", inputs[-1].size))
    jaxpr = jax.make_jaxpr(forward)(inputs, *leaves).jaxpr
    graph.visit(jaxpr, [*buffers, *[None] * len(leaves)])
    return Burden(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        parameter_mb=sum(leaf.size for leaf in leaves) * _BYTES / _MB,
        feature_mb=graph.features * _BYTES / _MB,
        multiply_adds=graph.multiply_adds,
    )


def _layers_of_detector(model: FasterRCNN, images: jax.Array, regions: jax.Array) -> Any:
    """Returns the outputs of the layers, without the arithmetic of boxes between them."""
    return model.rpn(model.levels(images)), model.box_head(regions)


def _regions(model: FasterRCNN) -> jax.ShapeDtypeStruct:
    shape = (1, model.proposals_after, BINS, BINS, model.pyramid_width)
    return jax.ShapeDtypeStruct(shape, jnp.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class _Buffer:
    """Memory for a layer's output, which later layers may overwrite in place."""

    layer: str
    size: int


_SCALING = "scaling by a gate"


class _Graph:
    """Counts the buffers and multiply-adds of a computation.

    A value that depends on the image is represented by its buffer; any other value by None.
    """

    _VIEWS = frozenset(
        ("broadcast_in_dim", "reshape", "squeeze", "transpose", "convert_element_type", "copy")
    )
    _MULTIPLYING = frozenset(("conv_general_dilated", "dot_general"))
    _SIGMOIDS = frozenset(("logistic", "tanh"))
    # Operations that never work in place. "sub" stands for a batch norm, which subtracts the mean.
    _APART = frozenset(("concatenate", "pad", "sub")) | _SIGMOIDS

    def __init__(self):
        self.features = 0
        self.multiply_adds = 0
        self._not_yet_counted: set[_Buffer] = set()  # scalings that a sum may still follow

    def visit(self, jaxpr: jex.Jaxpr, inputs: list[_Buffer | None]) -> list[_Buffer | None]:
        """Counts the equations of a computation; returns the buffers of its results."""
        buffers = dict(zip(jaxpr.invars, inputs, strict=True))

        def read(value):
            return None if isinstance(value, jex.Literal) else buffers.get(value)

        for equation in jaxpr.eqns:
            operands = [read(value) for value in equation.invars]
            inner = _inner(equation)
            if inner is not None:
                results = self.visit(inner, operands[len(operands) - len(inner.invars) :])
            else:
                results = [self._result(equation, operands)] * len(equation.outvars)
            buffers.update(zip(equation.outvars, results, strict=True))
        return [read(value) for value in jaxpr.outvars]

    def _result(self, equation: jex.JaxprEqn, operands: list[_Buffer | None]) -> _Buffer | None:
        given = [buffer for buffer in operands if buffer is not None]
        if not given:
            return None
        operation, (output, *_) = equation.primitive.name, equation.outvars
        size = output.aval.size
        if operation in self._VIEWS:
            return given[0]
        if "add" not in operation:
            for buffer in self._not_yet_counted & set(given):
                self._not_yet_counted.remove(buffer)
                self.features += buffer.size
        if operation in self._MULTIPLYING:
            self.multiply_adds += _multiply_adds(equation)
            return self.new(operation, size)
        alike = {
            buffer
            for buffer, value in zip(operands, equation.invars, strict=True)
            if buffer is not None and value.aval.size == size
        }
        if operation == "mul" and len(alike) == 1 and len(given) == 2 and given[0] != given[1]:
            scaled = _Buffer(_SCALING, size)
            self._not_yet_counted.add(scaled)
            return scaled
        activated = {buffer for buffer in alike if buffer.layer in self._SIGMOIDS}
        if operation == "mul" and len(activated) == 1:
            return activated.pop()  # a swish
        if len(alike) == 1 and operation not in self._APART and "window" not in operation:
            return alike.pop()
        return self.new(operation, size)

    def new(self, layer: str, size: int) -> _Buffer:
        """Counts a layer's output, and returns its buffer."""
        self.features += size
        return _Buffer(layer, size)


def _inner(equation: jex.JaxprEqn) -> jex.Jaxpr | None:
    """Returns the computation that an equation calls, if any."""
    parameters = equation.params
    if "branches" in parameters:  # platform_dependent: the last branch is the default
        return parameters["branches"][-1].jaxpr
    for name in ("jaxpr", "call_jaxpr"):
        if name in parameters:
            inner = parameters[name]
            return getattr(inner, "jaxpr", inner)
    return None


def _multiply_adds(equation: jex.JaxprEqn) -> int:
    left, right = (value.aval.shape for value in equation.invars)
    output = math.prod(equation.outvars[0].aval.shape)
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return output * math.prod(left[axis] for axis in contracted)
    out_features = right[equation.params["dimension_numbers"].rhs_spec[0]]
    return output * (math.prod(right) // out_features)


def published_burden(name: str) -> list[dict[str, str]]:
    """Returns a network's published figures, each with its `source` and a possibly empty `note`."""
    return [row for row in _published() if row["model"] == name]


@functools.cache
def _published() -> list[dict[str, str]]:
    table = importlib.resources.files("se_flax") / "published_burden.csv"
    return list(csv.DictReader(table.read_text().splitlines()))


def define_flags() -> None:
    """Declares the options of this command."""
    flags.DEFINE_integer(
        "input_size", None, "Height and width of the images; by default each network's own.", 1
    )
    flags.DEFINE_integer(
        "num_classes",
        None,
        "Size of the classifier's output; by default 1000, 10 for CIFAR networks, or 91 for "
        "detectors.",
        1,
    )


def main(argv: list[str]) -> None:
    """Prints a table of the models that match a pattern, each followed by published figures."""
    options = flags.FLAGS
    pattern = argv[1] if len(argv) > 1 else "*"
    names = _matching(pattern)
    width = max(28, *map(len, names))
    print(
        f"{'model':<{width}}{'input':>6}{'classes':>8}{'parameters':>13}{'MB':>9}{'feature MB':>12}"
        f"{'GMACs':>9}"
    )
    for name in names:
        usual = _usual(name)
        size, num_classes = options.input_size or usual[0], options.num_classes or usual[1]
        create = create_detector if is_detector(name) else create_model
        counted = burden(create(name, num_classes), size)
        print(
            f"{name:<{width}}{size:>6}{num_classes:>8}{counted.parameters:>13,}"
            f"{counted.parameter_mb:>9.1f}{counted.feature_mb:>12.1f}"
            f"{counted.multiply_adds / 1e9:>9.3f}",
            flush=True,
        )
        for row in published_burden(name) if (size, num_classes) == usual else ():
            note = f" ({row['note']})" if row["note"] else ""
            print(
                f"{'  published':<{width + 27}}{row['parameter_mb']:>9}{row['feature_mb']:>12}"
                f"{row['gmacs']:>9}  {row['source']}{note}"
            )


def _matching(pattern: str) -> list[str]:
    """Returns the names of the networks and detectors that match; `UserError` if there are none."""
    known = list_detectors()
    names = list_models(pattern) + fnmatch.filter(known, pattern)
    if not names and is_detector(pattern):
        return [pattern]
    if not names:
        raise UserError(
            f'no model matches "{pattern}"{nearest(pattern, list_models() + known)}; '
            "without a pattern all models are listed"
        )
    return names


def _usual(name: str) -> tuple[int, int]:
    """Returns the input size and the number of classes of a network or detector."""
    if is_detector(name):
        return DETECTOR_SIZE, DETECTOR_CLASSES
    info = model_info(name)
    return info.input_size, info.num_classes


if __name__ == "__main__":
    define_flags()
    app.run(run_command(main), flags_parser=functools.partial(parse_flags, positional=1))
