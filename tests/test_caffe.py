"""Reading files like the SE-BN-Inception that the SE paper's authors released."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from se_flax import create_model, load_pretrained
from se_flax.errors import UserError
from se_flax.pretrained.caffe import read_caffe


def field(number, payload):
    """A length-delimited field in the wire format of Protocol Buffers."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def varint(value):
    encoded = b""
    while value > 127:
        encoded += bytes([value & 127 | 128])
        value >>= 7
    return encoded + bytes([value])


def layer(name, kind, *blobs):
    """A `LayerParameter` of caffe.proto: name, type, and blobs of shape and packed data."""
    parts = field(1, name.encode()) + field(2, kind.encode())
    parts += field(3, b"bottom") + varint(10 << 3 | 0) + varint(1)  # fields that are not used here
    for blob in blobs:
        shape = field(7, field(1, b"".join(map(varint, blob.shape))))
        parts += field(7, field(5, np.asarray(blob, "<f4").tobytes()) + shape)
    return field(100, parts)


def released_names():
    """(name in Caffe, path of ours) of each convolution, as the released prototxt has them."""
    yield "conv1/7x7_s2", ("conv1_7x7_s2",)
    yield "conv2/3x3_reduce", ("conv2_3x3_reduce",)
    yield "conv2/3x3", ("conv2_3x3",)
    for module in ("3a", "3b", "3c", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        pairs = [
            ("3x3_reduce", "3x3_reduce"),
            ("3x3", "3x3"),
            ("double3x3_reduce", "double_3x3_reduce"),
            ("double3x3a", "double_3x3_1"),
            ("double3x3b", "double_3x3_2"),
        ]
        if module not in ("3c", "4e"):
            pairs += [("1x1", "1x1"), ("pool_proj", "pool_proj")]
        for theirs, ours in pairs:
            yield f"inception_{module}/{theirs}", (f"inception_{module}", ours)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A file of random weights, and the weights by name of the layer."""
    generator = np.random.default_rng(0)
    images = jnp.zeros((1, 224, 224, 3))
    model = create_model("se_bn_inception")
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images))["params"]
    blobs, content = {}, field(1, b"SE-BN-Inception")

    def add(name, kind, *sizes):
        nonlocal content
        blobs[name] = [generator.uniform(0.5, 1.5, size).astype(np.float32) for size in sizes]
        content += layer(name, kind, *blobs[name])

    for name, path in released_names():
        shape = shapes
        for key in (*path, "conv", "kernel"):
            shape = shape[key]
        height, width, inputs, outputs = shape.shape
        add(name, "Convolution", (outputs, inputs, height, width))
        add(f"{name}/bn", "BatchNorm", (outputs,), (outputs,), (1,))
        add(f"{name}/bn/scale", "Scale", (outputs,), (outputs,))
    for module in [name for name in shapes if name.startswith("inception")]:
        narrow = shapes[module]["se"]["reduce"]["bias"].shape[0]
        wide = shapes[module]["se"]["expand"]["bias"].shape[0]
        add(f"{module}_1x1_down", "Convolution", (narrow, wide, 1, 1), (narrow,))
        add(f"{module}_1x1_up", "Convolution", (wide, narrow, 1, 1), (wide,))
    add("classifier", "InnerProduct", (1000, 1024), (1000,))
    path = tmp_path_factory.mktemp("caffe") / "SE-BN-Inception.caffemodel"
    path.write_bytes(content)
    return path, blobs


def test_every_tensor_arrives_where_it_belongs(released):
    path, blobs = released
    variables = load_pretrained("se_bn_inception", path)
    params, statistics = variables["params"], variables["batch_stats"]
    for name, keys in released_names():
        ours, stats = params, statistics
        for key in keys:
            ours, stats = ours[key], stats[key]
        (kernel,) = blobs[name]
        if name == "conv1/7x7_s2":
            kernel = kernel[:, ::-1]  # blue, green, red
        np.testing.assert_array_equal(ours["conv"]["kernel"], kernel.transpose(2, 3, 1, 0))
        mean, variance, count = blobs[f"{name}/bn"]
        np.testing.assert_array_equal(stats["bn"]["mean"], mean / count)
        np.testing.assert_array_equal(stats["bn"]["var"], variance / count)
        scale, bias = blobs[f"{name}/bn/scale"]
        np.testing.assert_array_equal(ours["bn"]["scale"], scale)
        np.testing.assert_array_equal(ours["bn"]["bias"], bias)
    down, down_bias = blobs["inception_4c_1x1_down"]
    np.testing.assert_array_equal(
        params["inception_4c"]["se"]["reduce"]["kernel"], down[:, :, 0, 0].T
    )
    np.testing.assert_array_equal(params["inception_4c"]["se"]["reduce"]["bias"], down_bias)


def test_classes_are_converted_to_the_usual_order(released):
    path, blobs = released
    classifier = load_pretrained("se_bn_inception", path)["params"]["classifier"]
    kernel, bias = blobs["classifier"]
    # The first of the development kit is the kit fox, n02119789, now class 278; its last is
    # n03255030, the dumbbell, now 543.
    for theirs, ours in ((0, 278), (999, 543)):
        np.testing.assert_array_equal(classifier["kernel"][:, ours], kernel[theirs])
        assert classifier["bias"][ours] == bias[theirs]
    assert sorted(classifier["bias"].tolist()) == sorted(bias.tolist())


@pytest.mark.parametrize("content", [b"", b"no Caffe model", b"\x0a\xff\xff\xff"])
def test_a_file_that_is_not_a_caffe_model_is_refused(tmp_path, content):
    path = tmp_path / "x.caffemodel"
    path.write_bytes(content)
    with pytest.raises(UserError, match="damaged or not a Caffe model"):
        read_caffe(path)


def test_a_truncated_file_and_one_of_another_network_are_refused(released, tmp_path):
    path, _ = released
    content = path.read_bytes()
    short = tmp_path / "short.caffemodel"
    short.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged"):
        load_pretrained("se_bn_inception", short)
    with pytest.raises(UserError, match="do not fit the network"):
        load_pretrained("bn_inception", path)
