"""PyTorch files are read as torch.load reads them."""

import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from se_flax.pretrained.torch_file import architecture_in, read_torch

pytestmark = pytest.mark.references

DTYPES = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
          "bool"]  # fmt: skip


@st.composite
def views(draw, base):
    """A view of a tensor: sliced, transposed, expanded, flattened to one element, or all."""
    view = base
    for _ in range(draw(st.integers(0, 3))):
        kind = draw(st.sampled_from(["slice", "transpose", "expand", "select", "parameter"]))
        if kind == "transpose" and view.ndim > 1:
            view = view.transpose(0, draw(st.integers(1, view.ndim - 1)))
        elif kind == "slice" and view.ndim:
            first, step = draw(st.integers(0, 2)), draw(st.integers(1, 3))
            view = view[first::step]
        elif kind == "select" and view.ndim and len(view):
            view = view[draw(st.integers(0, len(view) - 1))]
        elif kind == "expand":
            view = view[None].expand(draw(st.integers(1, 3)), *view.shape)
    return view


@st.composite
def state_dicts(draw):
    import torch

    state = {}
    names = st.text(string.ascii_letters + "._0é", min_size=1, max_size=8)
    for _ in range(draw(st.integers(1, 3))):
        dtype = getattr(torch, draw(st.sampled_from(DTYPES)))
        shape = draw(st.lists(st.integers(0, 4), max_size=4))
        base = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 50).to(dtype)
        for name in draw(st.lists(names, max_size=3)):
            view = draw(views(base))
            if view.is_floating_point() and draw(st.booleans()):
                view = torch.nn.Parameter(view)
            state[name] = view
    return state


@pytest.mark.parametrize("zipped", [True, False])
@settings(max_examples=200, deadline=None)
@given(state=state_dicts(), in_checkpoint=st.booleans())
def test_tensors_equal_those_of_torch_load(tmp_path_factory, zipped, state, in_checkpoint):
    import torch

    path = tmp_path_factory.mktemp("files") / "weights.pt"
    content = {"state_dict": state, "epoch": 3, "size": torch.Size([2])} if in_checkpoint else state
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    expected = torch.load(path, weights_only=True)
    expected = expected["state_dict"] if in_checkpoint else expected
    ours = read_torch(path)
    assert ours.keys() == {name.removeprefix("module.") for name in expected}
    for name, tensor in expected.items():
        array = ours[name.removeprefix("module.")]
        assert str(array.dtype) == str(tensor.dtype).removeprefix("torch.")
        np.testing.assert_array_equal(array.astype(np.float64), tensor.detach().double().numpy())


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_may_state_its_architecture(tmp_path, zipped):
    import torch

    def save(content):
        torch.save(content, tmp_path / "a.pth.tar", _use_new_zipfile_serialization=zipped)
        return tmp_path / "a.pth.tar"

    state = {"a": torch.ones(2, 3)}
    checkpoint = save({"arch": "resnet18", "state_dict": state, "best_acc1": torch.tensor(0.5)})
    assert architecture_in(checkpoint) == "resnet18"
    np.testing.assert_array_equal(read_torch(checkpoint)["a"], np.ones((2, 3)))
    assert architecture_in(save(state)) is None
    assert architecture_in(save({"arch": 18, "state_dict": state})) is None
    assert architecture_in(save([1])) is None
    checkpoint.write_bytes(b"nothing")
    assert architecture_in(checkpoint) is None


@pytest.mark.parametrize("zipped", [True, False])
def test_the_state_dict_of_a_network_and_its_optimiser_is_read(tmp_path, zipped):
    import torch

    network = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimiser = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    network(torch.ones(2, 3)).sum().backward()
    optimiser.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, [1, 2])
    checkpoint = {
        "model": network.state_dict(),
        "optimizer": optimiser.state_dict(),
        "schedule": schedule.state_dict(),
        "device": torch.device("cpu"),
    }
    torch.save(checkpoint, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    tensors = read_torch(tmp_path / "a.pth")
    for name, tensor in network.state_dict().items():
        np.testing.assert_array_equal(tensors[name], tensor.numpy())
