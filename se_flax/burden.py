"""Counts parameters, memory and multiply-adds: python -m se_flax.burden "se_resnet*"."""

import csv
import dataclasses
import functools
import importlib.resources
import math

import flax.linen as nn
import jax
import jax.extend.core as jex
import jax.numpy as jnp
from absl import app, flags

from se_flax.cli.command import parse_flags, run_command
from se_flax.errors import UserError, nearest
from se_flax.models import create_model, list_models, model_info

_BYTES = 4  # size of a float32
_MB = 2**20


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
            networks that the authors of the SE paper released.
        multiply_adds: number of multiply-adds in all convolutions and matrix products.
    """

    parameters: int
    parameter_mb: float
    feature_mb: float
    multiply_adds: int


def burden(model: nn.Module, input_size: int, channels: int = 3) -> Burden:
    """Computes the burden of a network by tracing it.

    Args:
        model: network with the call signature of those from `create_model`.
        input_size: height and width of the image.
        channels: number of channels of the image.
    """
    images = jax.ShapeDtypeStruct((1, input_size, input_size, channels), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    leaves, structure = jax.tree.flatten(variables)

    def forward(images, *leaves):
        return model.apply(jax.tree.unflatten(structure, leaves), images, train=False)

    graph = _Graph()
    jaxpr = jax.make_jaxpr(forward)(images, *leaves).jaxpr
    graph.visit(jaxpr, [_Buffer("image", images.size), *[None] * len(leaves)])
    return Burden(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        parameter_mb=sum(leaf.size for leaf in leaves) * _BYTES / _MB,
        feature_mb=graph.features * _BYTES / _MB,
        multiply_adds=graph.multiply_adds,
    )


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
            return self._new(operation, size)
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
        return self._new(operation, size)

    def _new(self, layer: str, size: int) -> _Buffer:
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
        "Size of the classifier's output; by default 1000, or 10 for CIFAR networks.",
        1,
    )


def main(argv: list[str]) -> None:
    """Prints a table of the models that match a pattern, each followed by published figures."""
    options = flags.FLAGS
    pattern = argv[1] if len(argv) > 1 else "*"
    names = list_models(pattern)
    if not names:
        raise UserError(
            f'no model matches "{pattern}"{nearest(pattern, list_models())}; '
            "without a pattern all models are listed"
        )
    print(
        f"{'model':<28}{'input':>6}{'classes':>8}{'parameters':>13}{'MB':>9}{'feature MB':>12}"
        f"{'GMACs':>9}"
    )
    for name in names:
        info = model_info(name)
        size = options.input_size or info.input_size
        num_classes = options.num_classes or info.num_classes
        counted = burden(create_model(name, num_classes), size)
        print(
            f"{name:<28}{size:>6}{num_classes:>8}{counted.parameters:>13,}{counted.parameter_mb:>9.1f}"
            f"{counted.feature_mb:>12.1f}{counted.multiply_adds / 1e9:>9.3f}",
            flush=True,
        )
        if (size, num_classes) == (info.input_size, info.num_classes):
            for row in published_burden(name):
                note = f" ({row['note']})" if row["note"] else ""
                print(
                    f"{'  published':<55}{row['parameter_mb']:>9}{row['feature_mb']:>12}"
                    f"{row['gmacs']:>9}  {row['source']}{note}"
                )


if __name__ == "__main__":
    define_flags()
    app.run(run_command(main), flags_parser=functools.partial(parse_flags, positional=1))
