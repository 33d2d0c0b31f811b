"""PyTorch files are read without PyTorch, and whatever is in them runs nothing.

The files are made by hand; tests/references compares with torch.load on files of torch.save.
"""

import contextlib
import io
import os
import pickle
import random
import struct
import zipfile

import numpy as np
import pytest

from se_flax.errors import UserError
from se_flax.pretrained.torch_file import read_torch

NUMBERS = np.arange(6, dtype="<f4")


def numbers(values):
    return b"(" + b"".join(b"I%d\n" % value for value in values) + b"t"


def storage(key="7", kind="torch.FloatStorage", size=6, view="N"):
    module, name = kind.rsplit(".", 1)
    return f"(Vstorage\nc{module}\n{name}\nV{key}\nVcpu\nI{size}\n{view}tQ".encode()


def tensor(shape, strides, offset=0, **storage_options):
    of = storage(**storage_options) + b"I%d\n" % offset + numbers(shape) + numbers(strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + of + b"I00\nNtR"


def mapping(**values):
    return b"(" + b"".join(b"V%s\n" % k.encode() + value for k, value in values.items()) + b"d"


def old_file(content, storages):
    start = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little": True})]
    keys = pickle.dumps(list(storages), 2)
    data = [struct.pack("<q", array.size) + array.tobytes() for array in storages.values()]
    return b"".join([*start, content, b".", keys, *data])


def zip_file(content, storages):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("net/data.pkl", content + b".")
        archive.writestr("net/byteorder", b"little")
        for key, array in storages.items():
            archive.writestr(f"net/data/{key}", array.tobytes())
    return file.getvalue()


both_formats = pytest.mark.parametrize("make", [old_file, zip_file])


@pytest.fixture
def read(tmp_path):
    def read(content):
        path = tmp_path / "weights.th"
        path.write_bytes(content)
        return read_torch(path)

    return read


@both_formats
def test_views_of_one_storage_have_their_offsets_and_strides(read, make):
    content = mapping(
        whole=tensor((2, 3), (3, 1)),
        transposed=tensor((3, 2), (1, 3)),
        every_second=tensor((2,), (2,), offset=1),
        expanded=tensor((2, 2), (0, 1), offset=4),
        last=tensor((), (), offset=5),
        empty=tensor((0, 3), (3, 1)),
    )
    tensors = read(make(content, {"7": NUMBERS}))
    expected = {
        "whole": [[0, 1, 2], [3, 4, 5]],
        "transposed": [[0, 3], [1, 4], [2, 5]],
        "every_second": [1, 3],
        "expanded": [[4, 5], [4, 5]],
        "last": 5,
        "empty": np.zeros((0, 3)),
    }
    assert tensors.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(tensors[name], values)
        assert tensors[name].dtype == np.float32


@both_formats
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("Half", "<f2"), ("Double", "<f8"), ("Long", "<i8"), ("Char", "i1"), ("Bool", "?")],
)
def test_types_are_those_of_the_storages(read, make, kind, dtype):
    values = np.array([1, 0, 1, 1], dtype)
    content = mapping(a=tensor((4,), (1,), kind=f"torch.cuda.{kind}Storage", size=4))
    (array,) = read(make(content, {"7": values})).values()
    assert array.dtype == values.dtype
    np.testing.assert_array_equal(array, values)


@both_formats
def test_bfloat16_is_the_upper_half_of_float32(read, make):
    values = np.array([1.0, -2.5, 3e38, 1 / 3], "<f4")
    content = mapping(a=tensor((4,), (1,), kind="torch.BFloat16Storage", size=4))
    (array,) = read(make(content, {"7": values.view("<u2")[1::2].copy()})).values()
    np.testing.assert_allclose(array.astype(np.float32), values, rtol=2**-7)


def test_a_storage_may_be_part_of_another(read):
    content = mapping(a=tensor((2,), (1,), offset=1, view="(V8\nI2\nI3\nt"))
    np.testing.assert_array_equal(read(old_file(content, {"7": NUMBERS}))["a"], [3, 4])
    content = mapping(a=tensor((3,), (1,), offset=1, view="(V8\nI2\nI3\nt"))
    with pytest.raises(UserError, match="not inside its storage"):
        read(old_file(content, {"7": NUMBERS}))


@both_formats
def test_a_state_dict_in_a_checkpoint_is_found_and_its_prefix_removed(read, make):
    parameter = b"ctorch._utils\n_rebuild_parameter\n(" + tensor((6,), (1,)) + b"I01\nNtR"
    state = b"ccollections\nOrderedDict\n(tR(Vmodule.a\n" + parameter + b"u"
    # torch.save stores the versions of modules as an attribute of the dictionary.
    state += b"}(V_metadata\n" + mapping() + b"ub"
    counter = b"ccollections\nCounter\n(" + mapping(a=b"I1\n") + b"tR"
    content = mapping(epoch=b"I3\n", milestones=counter, best=tensor((), ()), state_dict=state)
    tensors = read(make(content, {"7": NUMBERS}))
    assert list(tensors) == ["a"]
    np.testing.assert_array_equal(tensors["a"], NUMBERS)


def test_reading_needs_no_pytorch(tmp_path, run_python):
    (tmp_path / "a.th").write_bytes(old_file(mapping(a=tensor((6,), (1,))), {"7": NUMBERS}))
    program = (
        "import sys, pathlib; sys.modules['torch'] = None; "
        "from se_flax.pretrained.load import read_tensors; "
        f"print(read_tensors('{tmp_path / 'a.th'}')['a'].sum())"
    )
    assert run_python("-c", program).stdout == "15.0\n"


@both_formats
@pytest.mark.parametrize(
    ("shape", "strides", "offset"),
    [
        ((7,), (1,), 0),
        ((2,), (1,), 5),
        ((1,), (1,), 6),
        ((1,), (1,), -1),
        ((2,), (-1,), 1),
        ((-2,), (1,), 1),
        ((2, 3), (1,), 0),
        ((2**40, 2**40), (2**40, 1), 0),
    ],
)
def test_tensors_that_leave_their_storage_are_refused(read, make, shape, strides, offset):
    content = mapping(a=tensor(shape, strides, offset))
    with pytest.raises(UserError, match="damaged or not a PyTorch file"):
        read(make(content, {"7": NUMBERS}))


@both_formats
def test_a_storage_with_other_than_the_declared_size_is_refused(read, make):
    for size in (0, 5):
        content = mapping(a=tensor((6,), (1,)))
        with pytest.raises(UserError, match="damaged"):
            read(make(content, {"7": NUMBERS[:size]}))


def test_a_storage_longer_than_declared_does_not_shift_the_next(read):
    content = mapping(a=tensor((6,), (1,)), b=tensor((6,), (1,), key="8"))
    with pytest.raises(UserError, match="a storage of the wrong size"):
        read(old_file(content, {"7": np.arange(7, dtype="<f4"), "8": NUMBERS}))


@both_formats
def test_a_tensor_that_is_still_to_be_negated_is_refused(read, make):
    lazy = tensor((6,), (1,)).removesuffix(b"tR") + mapping(neg=b"I01\n") + b"tR"
    with pytest.raises(UserError, match=r"a tensor with the properties .*neg"):
        read(make(mapping(a=lazy), {"7": NUMBERS}))


@both_formats
def test_a_file_cut_anywhere_is_refused_in_one_sentence(read, make):
    content = make(mapping(a=tensor((2, 3), (3, 1))), {"7": NUMBERS})
    for length in range(len(content)):
        with pytest.raises(UserError, match="is damaged or") as error:
            read(content[:length])
        assert "\n" not in str(error.value)


@both_formats
def test_a_damaged_byte_is_reported_or_harmless(read, make):
    content = make(mapping(a=tensor((2, 3), (3, 1)), b=tensor((), ())), {"7": NUMBERS})
    generator = random.Random(0)
    for place in range(len(content)):
        for _ in range(4):
            damaged = bytearray(content)
            damaged[place] = generator.randrange(256)
            with contextlib.suppress(UserError):
                assert all(tensor.size < 1000 for tensor in read(bytes(damaged)).values())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\x05\x06" + bytes(18), "does not start as one|damaged"),
        (b"not weights", "damaged or not a PyTorch file"),
        (pickle.dumps({"a": 1}), "does not start as one"),
        (old_file(b"]", {}), "must contain a state dict"),
        (zip_file(mapping(a=b"I1\n"), {}), "must contain a state dict"),
    ],
)
def test_other_files_are_refused(read, content, words):
    with pytest.raises(UserError, match=words):
        read(content)


def test_an_archive_of_something_else_is_refused(read):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UserError, match=r"the archive has no data\.pkl"):
        read(file.getvalue())


class Malice:
    """When unpickled, calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@both_formats
@pytest.mark.parametrize("where", ["alone", "next to a tensor", "as the name of a file"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not(read, make, tmp_path, where):
    trace = tmp_path / "it ran"
    malice = pickle.dumps(Malice(os.mkdir, str(trace)), 2)[:-1]
    content = {
        "alone": malice,
        "next to a tensor": mapping(a=tensor((6,), (1,)), b=malice),
        "as the name of a file": mapping(a=b"(Vstorage\n" + malice + b"VcputQ"),
    }[where]
    with pytest.raises(
        UserError, match=r"more than tensors \(posix\.mkdir\), and reading it could"
    ):
        read(make(content, {"7": NUMBERS}))
    assert not trace.exists()
    pickle.loads(malice + b".")
    assert trace.exists()  # it would have


@pytest.mark.parametrize("part", range(5))
def test_every_pickle_of_an_old_file_is_read_safely(read, tmp_path, part):
    parts = [pickle.dumps(x, 2) for x in (0x1950A86A20F9469CFC6C, 1001, {}, {}, [])]
    parts[part] = pickle.dumps(Malice(os.mkdir, str(tmp_path / "it ran")), 2)
    with pytest.raises(UserError, match="more than tensors"):
        read(b"".join(parts))
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize(
    "name",
    ["builtins\neval", "os\nsystem", "torch\nload", "functools\npartial", "builtins\ngetattr",
     "numpy\nload", "torch._utils\n__builtins__", "collections\nOrderedDict.update"],
)  # fmt: skip
def test_nothing_but_tensors_can_be_named(read, name):
    for content in (f"c{name}\n", f"V{name.replace(chr(10), chr(10) + 'V')}\n\x93"):
        with pytest.raises(UserError, match="more than tensors"):
            read(zip_file(content.encode("latin-1"), {}))


@pytest.mark.parametrize(
    "known",
    [b"ctorch._utils\n_rebuild_tensor_v2\n", b"ccollections\nOrderedDict\n",
     b"ctorch\nFloatStorage\n", b"ctorch\nSize\n", storage(), tensor((6,), (1,))],
)  # fmt: skip
@pytest.mark.parametrize("attribute", ["function", "__call__", "__class__", "key", "update"])
def test_a_pickle_cannot_change_what_later_ones_use(read, known, attribute):
    for state in (f"(V{attribute}\nI1\nd", f"(N(V{attribute}\nI1\ndt"):
        with pytest.raises(UserError, match="damaged"):
            read(zip_file(known + state.encode() + b"b", {"7": NUMBERS}))
    content = mapping(state_dict=b"ccollections\nOrderedDict\n(tR(Va\n" + tensor((6,), (1,)) + b"u")
    np.testing.assert_array_equal(read(zip_file(content, {"7": NUMBERS}))["a"], NUMBERS)
