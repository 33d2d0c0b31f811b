"""Reads the tensors in a PyTorch file, without PyTorch and without running code from the file.

torch.save has had two formats. Both have a pickle in which a tensor is a storage, an offset, a
shape and strides. Since PyTorch 1.6 a file is a zip archive of this pickle (`data.pkl`) and the
storages (`data/<key>`). Before, it was five pickles (a magic number, a version, properties of the
machine, the content, the keys of the storages), and then each storage after its number of elements.
"""

import collections
import io
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, NamedTuple

import jax.numpy as jnp
import numpy as np

from se_flax.errors import UserError

# Keys under which checkpoints with more than a state dict store it.
_CONTAINERS = ("state_dict", "model_state_dict", "model")
_ZIP_START = b"PK\x03\x04"
_OLD_START = (0x1950A86A20F9469CFC6C, 1001)  # magic number and version
_DTYPES = {
    "Bool": "bool",
    "Byte": "uint8",
    "Char": "int8",
    "Short": "<i2",
    "Int": "<i4",
    "Long": "<i8",
    "Half": "<f2",
    "BFloat16": "bfloat16",
    "Float": "<f4",
    "Double": "<f8",
}


# What a pickle handles is immutable: a file must not be able to change what is read after it.
class _Storage(NamedTuple):
    """Elements `start` to `start + size` of the storage `key`."""

    key: str
    dtype: str
    start: int
    size: int


class _Tensor(NamedTuple):
    """A tensor; its offset and strides count elements of the storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Function(NamedTuple):
    """A function that a pickle may call."""

    function: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


def _tensor(
    storage: _Storage,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    requires_grad: bool = False,
    hooks: Any = None,
    metadata: Any = None,
) -> _Tensor:
    if metadata:  # a lazily negated or conjugated tensor
        raise ValueError(f"it has a tensor with the properties {metadata}")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


# All that a pickle may name. Sizes, devices, counters and sets occur next to the state dict in
# checkpoints; their arguments replace them.
_GLOBALS = {
    "collections.OrderedDict": _Function(collections.OrderedDict),
    "torch._utils._rebuild_tensor": _Function(_tensor),
    "torch._utils._rebuild_tensor_v2": _Function(_tensor),
    "torch._utils._rebuild_parameter": _Function(lambda tensor, *others: tensor),
    **{
        f"{module}.{name}Storage": dtype
        for module in ("torch", "torch.cuda")
        for name, dtype in _DTYPES.items()
    },
    **{
        name: _Function(lambda *args: args)
        for name in ("torch.Size", "torch.device", "collections.Counter", "builtins.set")
    },
}


class _Refused(Exception):
    """A pickle names something else; the argument is its name."""


class _Unpickler(pickle._Unpickler):
    """Unpickles containers, numbers, strings and tensors only.

    The base class is the implementation in Python, because the one in C allocates as much memory
    as the indices in a damaged pickle ask for.

    Attributes:
        storages: storages that tensors refer to, by key.
    """

    def __init__(self, file: BinaryIO):
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Returns what a pickle names, if it is in `_GLOBALS`."""
        if f"{module}.{name}" not in _GLOBALS:
            raise _Refused(f"{module}.{name}")
        return _GLOBALS[f"{module}.{name}"]

    def persistent_load(self, pid: Any) -> _Storage:
        """Returns the storage that a tensor refers to."""
        kind, *properties = pid
        if kind != "storage":
            raise _Refused(f"a {kind}")
        dtype, key, _, size, *view = properties
        if dtype not in _DTYPES.values():
            raise ValueError(f"it has a storage of type {dtype}")
        storage = self.storages.setdefault(key, _Storage(key, dtype, 0, size))
        if view and view[0] is not None:
            _, start, size = view[0]
            return storage._replace(start=start, size=size)
        return storage


def read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the tensors by name in the state dict of a PyTorch file (.pth, .pt, .th, .bin, .tar).

    The file may hold the state dict itself or a dict that has it under one of the usual names.
    The prefix `module.` of `torch.nn.DataParallel` is removed. Arrays have the types of the
    tensors, and are read-only.

    Raises:
        UserError: if the file is damaged, holds more than tensors, or has no state dict.
    """
    try:
        with path.open("rb") as file:
            content, read_storages = _read(file)
            data = read_storages()
        state = _state_dict(content)
        tensors = state and {name: _array(tensor, data) for name, tensor in state.items()}
    except _Refused as error:
        raise UserError(
            f"{path} is damaged or contains more than tensors ({error}), and reading it could run "
            "code; give a file with a state dict"
        ) from error
    except Exception as error:  # a damaged pickle or archive raises errors of many types
        told = isinstance(error, ValueError | OSError | zipfile.BadZipFile)
        reason = str(error).partition("\n")[0] if told else "it ends too soon or cannot be parsed"
        raise UserError(f"{path} is damaged or not a PyTorch file: {reason}") from error
    if tensors is None:
        raise UserError(f"{path} must contain a state dict, a mapping from names to tensors")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def architecture_in(path: pathlib.Path) -> str | None:
    """Returns the entry `arch` of a checkpoint, or None.

    PyTorch's ImageNet example writes it (github.com/pytorch/examples, imagenet/main.py).
    """
    try:
        with path.open("rb") as file:
            content, _ = _read(file)
    except Exception:  # `read_torch` reports it
        return None
    name = content.get("arch") if isinstance(content, Mapping) else None
    return name if isinstance(name, str) else None


def _state_dict(content: Any) -> Mapping[str, _Tensor] | None:
    if isinstance(content, Mapping):
        inner = (content.get(key) for key in _CONTAINERS)
        content = next((value for value in inner if isinstance(value, Mapping)), content)
    if isinstance(content, Mapping) and all(
        isinstance(name, str) and isinstance(value, _Tensor) for name, value in content.items()
    ):
        return content
    return None


def _read(file: BinaryIO) -> tuple[Any, Callable[[], dict[str, bytes]]]:
    """Returns the content of a file, and a function that reads the bytes of its storages."""
    is_zip = file.read(len(_ZIP_START)) == _ZIP_START
    file.seek(0)
    return _read_zip(file) if is_zip else _read_old(file)


def _read_zip(file: BinaryIO) -> tuple[Any, Callable[[], dict[str, bytes]]]:
    archive = zipfile.ZipFile(file)
    names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
    if len(names) != 1:
        raise ValueError("the archive has no data.pkl")
    folder = names[0].removesuffix("data.pkl")

    def entry(name: str) -> bytes:
        info = archive.getinfo(folder + name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed")
        return archive.read(info)

    if f"{folder}byteorder" in archive.namelist() and entry("byteorder") != b"little":
        raise ValueError("it is from a big-endian machine")
    unpickler = _Unpickler(io.BytesIO(entry("data.pkl")))
    content = unpickler.load()
    return content, lambda: {key: entry(f"data/{key}") for key in unpickler.storages}


def _read_old(file: BinaryIO) -> tuple[Any, Callable[[], dict[str, bytes]]]:
    end = file.seek(0, io.SEEK_END)
    file.seek(0)
    if any(_Unpickler(file).load() != part for part in _OLD_START):
        raise ValueError("it does not start as one")
    _Unpickler(file).load()  # sizes of C types and the byte order; the storages are little-endian
    unpickler = _Unpickler(file)
    content = unpickler.load()

    def read_storages() -> dict[str, bytes]:
        data = {}
        for key in _Unpickler(file).load():
            storage = unpickler.storages[key]
            (size,) = struct.unpack("<q", file.read(8))
            length = size * jnp.dtype(storage.dtype).itemsize
            if size != storage.size or not 0 <= length <= end - file.tell():
                raise ValueError("it ends too soon or has a storage of the wrong size")
            data[key] = file.read(length)
        return data

    return content, read_storages


def _array(tensor: _Tensor, data: Mapping[str, bytes]) -> np.ndarray:
    """Returns a view of the storage as an array; raises ValueError if it leaves the storage."""
    storage, offset, shape, strides = tensor
    dtype = jnp.dtype(storage.dtype)
    if 0 in shape:
        return np.empty(shape, dtype)
    first = storage.start + offset
    last = first + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    held = min(storage.start + storage.size, len(data[storage.key]) // dtype.itemsize)
    if min(storage.start, offset, *shape, *strides) < 0 or last >= held:
        raise ValueError(f"a tensor of shape {list(shape)} is not inside its storage")
    steps = [stride * dtype.itemsize for stride in strides]
    return np.ndarray(shape, dtype, data[storage.key], first * dtype.itemsize, steps)
