"""A network with its weights as an ONNX model.

The network is traced to JAX's primitives, of which networks have about twenty, and each is written
as ONNX's operators (github.com/onnx/onnx, docs/Operators.md). Images and feature maps, which JAX
has as [n, h, w, c], are [n, c, h, w] in the model, as its operators want them; vectors and matrices
are as in JAX. What does not depend on the images is computed here and becomes a constant.
"""

import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from se_flax.errors import UserError
from se_flax.layers.cpu import stock_forms
from se_flax.pretrained.hub import import_package

OPSET, IR_VERSION = 17, 8  # of 2022, which ONNX Runtime reads since its version 1.11
_PLACES = (0, 2, 3, 1)  # the axis in the model of each axis of [n, h, w, c]
_ORDER = (0, 3, 1, 2)  # [n, c, h, w], by axes of [n, h, w, c]


def to_onnx(
    network: nn.Module,
    variables: Mapping[str, Any],
    size: int,
    channels: int = 3,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Returns a network's inference as an ONNX model, for ONNX Runtime and others.

        pathlib.Path("net.onnx").write_bytes(to_onnx(network, variables, 224))

        session = onnxruntime.InferenceSession("net.onnx")
        (logits,) = session.run(["logits"], {"images": images})

    The model maps prepared images, float32 [n, size, size, channels], of any number n to logits,
    float32 [n, number of classes], as `network.apply(variables, images, train=False)` does. It
    computes in float32. Writing it needs the package onnx: `pip install "se_flax[export]"`.

    Args:
        network: a network.
        variables: its variables.
        size: height and width of its images.
        channels: number of channels of its images.
        metadata: texts by key, for the model's `metadata_props`.

    Raises:
        UserError: if the package is not installed, or the network computes something that this
            file does not know.
    """
    onnx = import_package("onnx")
    held = {kind: variables[kind] for kind in ("params", "batch_stats") if kind in variables}
    network = network.clone(dtype=jnp.float32)
    (n,) = jax.export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((n, size, size, channels), jnp.float32)
    with stock_forms():
        traced = jax.make_jaxpr(lambda held, x: network.apply(held, x, train=False))(held, images)
    graph = _Graph(onnx)
    given = _Tensor("images", images.shape)
    x = graph.add("Transpose", [given], images.shape, perm=_ORDER)
    weights = [np.asarray(leaf) for leaf in jax.tree.leaves(held)]
    (logits,) = _convert(graph, traced.jaxpr, traced.consts, [*weights, x])
    graph.add("Identity", [logits], logits.shape, name="logits")
    shapes = ["n", size, size, channels], ["n", logits.shape[1]]
    return graph.serialised(type(network).__name__, shapes, metadata or {})


class _Tensor(NamedTuple):
    """A tensor of the model.

    Attributes:
        name: its name in the model.
        shape: its shape, with the axes in JAX's order. Axes of size 1 may stand for larger ones
            of JAX's value, as in NumPy's broadcasting.
    """

    name: str
    shape: tuple[Any, ...]


# A constant has its axes in JAX's order.
_Value = _Tensor | np.ndarray


class _Graph:
    """A model that is being written."""

    def __init__(self, onnx: Any):
        self._onnx, self._nodes, self._constants = onnx, [], {}

    def add(
        self, op: str, inputs: Sequence[_Value | str], shape: tuple, name: str = "", **fields: Any
    ) -> _Tensor:
        """Adds a node for an operator; returns its output, of a shape in JAX's order of axes.

        An input that is a text is the name of a constant that has the model's order of axes.
        """
        name = name or f"{op.lower()}_{len(self._nodes)}"
        names = [value if isinstance(value, str) else self._name(value) for value in inputs]
        self._nodes.append(self._onnx.helper.make_node(op, names, [name], name=name, **fields))
        return _Tensor(name, shape)

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Adds a constant with the model's order of axes; returns its name."""
        name = f"constant_{len(self._constants)}"
        array = np.ascontiguousarray(np.asarray(value, dtype)).reshape(np.shape(value))
        self._constants[name] = self._onnx.numpy_helper.from_array(array, name)
        return name

    def _name(self, value: _Value) -> str:
        if isinstance(value, _Tensor):
            return value.name
        return self.constant(value.transpose(_in_order(range(value.ndim))))

    def serialised(
        self, name: str, shapes: tuple[list, list], metadata: Mapping[str, str]
    ) -> bytes:
        """Returns the model as bytes, for shapes of images and of logits."""
        helper, kind = self._onnx.helper, self._onnx.TensorProto.FLOAT
        given, result = (
            helper.make_tensor_value_info(which, kind, shape)
            for which, shape in zip(("images", "logits"), shapes, strict=True)
        )
        constants = list(self._constants.values())
        graph = helper.make_graph(self._nodes, name, [given], [result], constants)
        opsets = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="se_flax"
        )
        helper.set_model_props(model, dict(metadata))
        return model.SerializeToString()


def _convert(
    graph: _Graph, jaxpr: core.Jaxpr, consts: Sequence[Any], inputs: Sequence[_Value]
) -> list[_Value]:
    """Adds all that a jaxpr computes to a model; returns its outputs."""
    values: dict[Any, _Value] = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
    values.update(zip(jaxpr.invars, inputs, strict=True))

    def value_of(atom: Any) -> _Value:
        return np.asarray(atom.val) if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.eqns:
        given = [value_of(atom) for atom in equation.invars]
        values.update(zip(equation.outvars, _results(graph, equation, given), strict=True))
    return [value_of(atom) for atom in jaxpr.outvars]


def _results(graph: _Graph, equation: core.JaxprEqn, given: list[_Value]) -> list[_Value]:
    name, params = equation.primitive.name, equation.params
    inner = params.get("jaxpr") or params.get("call_jaxpr")
    if inner is not None:
        return _convert(graph, inner.jaxpr, inner.consts, given)
    if name in _RESHAPING:  # which name the number of images
        shape, x = equation.outvars[0].aval.shape, given[0]
        if name != "broadcast_in_dim":
            x = _expanded(graph, x, equation.invars[0].aval.shape)
        return [_RESHAPING[name](graph, x, shape, params)]
    if all(isinstance(value, np.ndarray) for value in given):
        return [np.asarray(equation.primitive.bind(*given, **params))]
    if name in _ELEMENTWISE:
        return [_elementwise(graph, name, given)]
    if name not in _OTHERS:
        raise UserError(
            f'the network computes "{name}", which cannot be written as ONNX; use another format'
        )
    full = [atom.aval.shape for atom in equation.invars]
    for value, shape in zip(given, full, strict=True):
        if isinstance(value, _Tensor) and value.shape != shape:
            raise UserError(
                f'the network computes "{name}" of a broadcast value; use another format'
            )
    return [_OTHERS[name](graph, given, equation.outvars[0].aval.shape, params)]


_ELEMENTWISE = {
    **{"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max", "min": "Min"},
    **{"logistic": "Sigmoid", "tanh": "Tanh", "exp": "Exp", "log": "Log", "abs": "Abs"},
    **{"neg": "Neg", "sqrt": "Sqrt", "stop_gradient": "Identity", "copy": "Identity"},
}


def _elementwise(graph: _Graph, name: str, given: list[_Value]) -> _Tensor:
    shape = tuple(
        next((size for size in sizes if not _is_one(size)), 1)
        for sizes in zip(*(value.shape for value in given if value.shape), strict=True)
    )
    if name == "max" and isinstance(given[1], np.ndarray) and not given[1].any():
        return graph.add("Relu", given[:1], shape)
    return graph.add(_ELEMENTWISE[name], given, shape)


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


def _sizes(shape: Sequence[Any]) -> list[int]:
    """Returns a shape for the operator Reshape; the number of images is left to it."""
    return [size if isinstance(size, int) else -1 for size in shape]


def _expanded(graph: _Graph, x: _Value, shape: tuple) -> _Value:
    """Returns a value with its axes of size 1 repeated to those of a shape."""
    if isinstance(x, np.ndarray) or x.shape == shape:
        return x
    target = [size if isinstance(size, int) else 1 for size in shape]  # 1 keeps all images
    return graph.add("Expand", [x, graph.constant(_in_order(target), np.int64)], shape)


def _reshape(graph: _Graph, x: _Value, shape: tuple, params: Mapping[str, Any]) -> _Value:
    if isinstance(x, np.ndarray):
        return x.reshape(_sizes(shape))
    return _reshaped(graph, x, shape)


def _reshaped(graph: _Graph, x: _Tensor, shape: tuple) -> _Tensor:
    """Reshapes a tensor, with the elements in JAX's order."""
    if len(x.shape) == 4 and x.shape[1:3] != (1, 1):
        x = graph.add("Transpose", [x], x.shape, perm=_PLACES)
    is_map = len(shape) == 4
    flat = is_map and shape[1:3] == (1, 1)
    target = _in_order(shape) if flat else shape
    x = graph.add("Reshape", [x, graph.constant(_sizes(target), np.int64)], shape)
    return graph.add("Transpose", [x], shape, perm=_ORDER) if is_map and not flat else x


def _broadcast(graph: _Graph, x: _Value, shape: tuple, params: Mapping[str, Any]) -> _Value:
    """Gives a value the axes of a shape; those that it lacks have size 1, except in a constant."""
    kept = params["broadcast_dimensions"]
    places = dict(zip(kept, x.shape, strict=True))
    own = tuple(places.get(axis, 1) for axis in range(len(shape)))
    if isinstance(x, np.ndarray):
        known = [size if isinstance(size, int) else 1 for size in shape]
        return np.broadcast_to(x.reshape(own), known)
    return x if own == x.shape else _reshaped(graph, x, own)


_RESHAPING = {"reshape": _reshape, "squeeze": _reshape, "broadcast_in_dim": _broadcast}


def _rsqrt(graph: _Graph, given: list, shape: tuple, params: Mapping[str, Any]) -> _Tensor:
    return graph.add("Reciprocal", [graph.add("Sqrt", given, shape)], shape)


def _square(graph: _Graph, given: list, shape: tuple, params: Mapping[str, Any]) -> _Tensor:
    return graph.add("Mul", [given[0], given[0]], shape)


def _convolution(graph: _Graph, given: list, shape: tuple, params: Mapping[str, Any]) -> _Tensor:
    numbers = params["dimension_numbers"]
    specs = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    known = specs == (_ORDER, (3, 2, 0, 1), _ORDER) and set(params["lhs_dilation"]) == {1}
    if not known or params["batch_group_count"] != 1 or not isinstance(given[1], np.ndarray):
        raise UserError("the network has an unusual convolution; use another format than ONNX")
    x, kernel = given
    return graph.add(
        "Conv",
        [x, graph.constant(kernel.transpose(3, 2, 0, 1))],
        shape,
        kernel_shape=kernel.shape[:2],
        strides=params["window_strides"],
        pads=_pads(params["padding"]),
        dilations=params["rhs_dilation"],
        group=params["feature_group_count"],
    )


def _pads(padding: Sequence[tuple[int, int]]) -> list[int]:
    return [low for low, _ in padding] + [high for _, high in padding]


def _product(graph: _Graph, given: list, shape: tuple, params: Mapping[str, Any]) -> _Tensor:
    if params["dimension_numbers"] == (((1,), (0,)), ((), ())):
        return graph.add("MatMul", given, shape)
    (left_sum, right_sum), (left_same, right_same) = params["dimension_numbers"]
    left = list(string.ascii_lowercase[: len(given[0].shape)])
    right = list(string.ascii_uppercase[: len(given[1].shape)])
    for i, j in zip((*left_sum, *left_same), (*right_sum, *right_same), strict=True):
        right[j] = left[i]
    result = [left[i] for i in left_same]
    result += [axis for i, axis in enumerate(left) if i not in (*left_sum, *left_same)]
    result += [axis for j, axis in enumerate(right) if j not in (*right_sum, *right_same)]
    left, right, result = ("".join(_in_order(axes)) for axes in (left, right, result))
    return graph.add("Einsum", given, shape, equation=f"{left},{right}->{result}")


def _in_order(axes: Sequence[Any]) -> Sequence[Any]:
    """Returns what belongs to the axes of a value, in the model's order of its axes."""
    return [axes[axis] for axis in _ORDER] if len(axes) == 4 else axes


def _transposition(graph: _Graph, given: list, shape: tuple, params: Mapping[str, Any]) -> _Tensor:
    axes = _in_order(params["permutation"])
    return graph.add("Transpose", given, shape, perm=[_place(axis, shape) for axis in axes])


def _place(axis: int, shape: Sequence[Any]) -> int:
    """Returns the axis in the model of an axis of a value."""
    return _PLACES[axis] if len(shape) == 4 else axis


def _reduction(op: str) -> Callable[..., _Tensor]:
    def reduce(graph: _Graph, given: list, shape: tuple, params: Mapping[str, Any]) -> _Tensor:
        x, axes = given[0], params["axes"]
        if len(x.shape) == 4 and 3 not in axes and not {1, 2} <= set(axes):
            raise UserError(f'the network computes a "{op}" over {axes}; use another format')
        axes = [_place(axis, x.shape) for axis in axes]
        if op == "ReduceSum":
            return graph.add(op, [*given, graph.constant(axes, np.int64)], shape, keepdims=0)
        return graph.add(op, given, shape, axes=axes, keepdims=0)

    return reduce


def _pool(op: str) -> Callable[..., _Tensor]:
    def pool(graph: _Graph, given: list, shape: tuple, params: Mapping[str, Any]) -> _Tensor:
        window = params["window_dimensions"]
        fields = {"count_include_pad": 1} if op == "AveragePool" else {}
        pooled = graph.add(
            op,
            given,
            shape,
            kernel_shape=window[1:3],
            strides=params["window_strides"][1:3],
            pads=_pads(params["padding"][1:3]),
            **fields,
        )
        if op == "MaxPool":
            return pooled
        return graph.add("Mul", [pooled, np.asarray(np.prod(window), np.float32)], shape)

    return pool


def _concatenation(graph: _Graph, given: list, shape: tuple, params: Mapping[str, Any]) -> _Tensor:
    axis = params["dimension"]
    return graph.add("Concat", given, shape, axis=_place(axis, shape))


def _padding(graph: _Graph, given: list, shape: tuple, params: Mapping[str, Any]) -> _Tensor:
    x, filled = given
    pads = _in_order(params["padding_config"])
    if any(inside for _, _, inside in pads):
        raise UserError("the network pads between pixels; use another format than ONNX")
    pads = graph.constant(_pads([(low, high) for low, high, _ in pads]), np.int64)
    return graph.add("Pad", [x, pads, filled], shape)


def _slice(graph: _Graph, given: list, shape: tuple, params: Mapping[str, Any]) -> _Tensor:
    (x,) = given
    steps = params["strides"] or [1] * len(shape)
    limits = zip(params["start_indices"], params["limit_indices"], steps, strict=True)
    cuts = [
        (start, stop, _place(axis, shape), step)
        for axis, (start, stop, step) in enumerate(limits)
        if x.shape[axis] != shape[axis]
    ]
    columns = [graph.constant(column, np.int64) for column in zip(*cuts, strict=True)]
    return graph.add("Slice", [x, *columns], shape)


_OTHERS: dict[str, Callable[..., _Tensor]] = {
    "rsqrt": _rsqrt,
    "square": _square,
    "conv_general_dilated": _convolution,
    "dot_general": _product,
    "transpose": _transposition,
    "reduce_sum": _reduction("ReduceSum"),
    "reduce_max": _reduction("ReduceMax"),
    "reduce_window_max": _pool("MaxPool"),
    "reduce_window_sum": _pool("AveragePool"),
    "concatenate": _concatenation,
    "pad": _padding,
    "slice": _slice,
}
