"""Reads the weights in a Caffe model file."""

import functools
import pathlib
from typing import Any

import numpy as np

from se_flax.errors import UserError

_OLD_SHAPE = ("num", "channels", "height", "width")


def read_caffe(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a `.caffemodel` file by name, following PyTorch's naming scheme.

    The tensors of layer `a/b` are named `a.b.weight` and `a.b.bias`. Those of a batch norm are
    named `a.b.running_mean` and `a.b.running_var`; its scale and bias, which Caffe keeps in a
    separate layer `a/b/scale`, are named `a.b.weight` and `a.b.bias`.

    Raises:
        UserError: if the file is not a Caffe model, or is damaged.
    """
    from google.protobuf.message import DecodeError

    net = _net_parameter()()
    try:
        net.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise UserError(f"{path} is damaged or not a Caffe model; download it again") from error
    tensors = {}
    for layer in net.layer:
        name = layer.name.removesuffix("/scale").replace("/", ".")
        blobs = [_array(blob) for blob in layer.blobs]
        if layer.type == "BatchNorm":
            mean, variance, count = blobs
            tensors[f"{name}.running_mean"] = mean / count
            tensors[f"{name}.running_var"] = variance / count
        else:
            tensors.update(
                {f"{name}.{kind}": b for kind, b in zip(("weight", "bias"), blobs, strict=False)}
            )
    if not tensors:
        raise UserError(
            f"{path} is damaged or not a Caffe model: it has no layers with weights; download it "
            "again"
        )
    return tensors


def _array(blob: Any) -> np.ndarray:
    shape = tuple(blob.shape.dim) or (blob.num, blob.channels, blob.height, blob.width)
    return np.array(blob.data, np.float32).reshape(shape)


@functools.cache
def _net_parameter() -> type:
    """Returns the message type `NetParameter` of `caffe.proto`, with only the fields read here."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    fields = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="se_flax/caffe.proto", package="se_flax.caffe", syntax="proto2"
    )

    def message(message_name: str, /, **entries: tuple[int, int, bool, str]) -> None:
        declared = file.message_type.add(name=message_name)
        for field, (number, kind, repeated, of) in entries.items():
            label = fields.LABEL_REPEATED if repeated else fields.LABEL_OPTIONAL
            entry = declared.field.add(name=field, number=number, type=kind, label=label)
            if of:
                entry.type_name = of
            elif repeated:
                entry.options.packed = True

    integer, text, inner = fields.TYPE_INT32, fields.TYPE_STRING, fields.TYPE_MESSAGE
    message("BlobShape", dim=(1, fields.TYPE_INT64, True, ""))
    message(
        "BlobProto",
        **{name: (i, integer, False, "") for i, name in enumerate(_OLD_SHAPE, start=1)},
        data=(5, fields.TYPE_FLOAT, True, ""),
        shape=(7, inner, False, ".se_flax.caffe.BlobShape"),
    )
    message(
        "LayerParameter",
        name=(1, text, False, ""),
        type=(2, text, False, ""),
        blobs=(7, inner, True, ".se_flax.caffe.BlobProto"),
    )
    message("NetParameter", layer=(100, inner, True, ".se_flax.caffe.LayerParameter"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("se_flax.caffe.NetParameter"))
