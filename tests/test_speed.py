import jax
import jax.numpy as jnp
import pytest

from experiments.peers import stock_flax
from experiments.speed import IMPLEMENTATIONS, convolutions, detectors, markdown, ratios
from se_flax import create_model
from se_flax.models import model_info

ENVIRONMENT = {"device_count": 1, "device": "d", "platform": "p", "versions": {"jax": "1"}}


@pytest.mark.parametrize("name", stock_flax.NETWORKS)
def test_the_networks_compared_with_are_the_same_networks(name):
    info = model_info(name)
    images = jax.ShapeDtypeStruct((1, info.input_size, info.input_size, 3), jnp.float32)
    shapes = [
        jax.eval_shape(lambda x, init=init: init(jax.random.key(0), x, train=False), images)
        for init in (
            create_model(name, info.num_classes).init,
            stock_flax.NETWORKS[name](jnp.float32).init,
        )
    ]
    ours, theirs = (sorted(leaf.shape for leaf in jax.tree.leaves(tree)) for tree in shapes)
    assert ours == theirs


def row(network, implementation, seconds):
    return {
        "network": network,
        "mode": "training",
        "batch_size": 4,
        "implementation": implementation,
        "seconds": seconds,
        "milliseconds": 1.0,
        "fastest": 1.0,
        "slowest": 1.0,
        "images_per_second": 1.0,
        "first_seconds": 1.0,
        "working_mb": None,
        "share_of_matrix_product": 0.5,
    }


def test_ratios_are_medians_of_the_rounds():
    rows = [
        row("resnet50", "se_flax", [1.0, 2.0, 4.0]),
        row("se_resnet50", "se_flax", [1.1, 2.2, 40.0]),
        row("resnet50", "PyTorch", [3.0, 4.0, 8.0]),
    ]
    assert ratios(rows) == {
        "resnet50, training, batch 4: se_flax / PyTorch": 2.0,
        "se_resnet50, training, batch 4: cost of SE, se_flax": pytest.approx(0.1),
    }
    page = markdown(
        {
            "environment": ENVIRONMENT,
            "dtype": "float32",
            "cores": 2,
            "revisions": {"steps": "0123456789abcdef"},
            "steps": rows,
            "limits": {"matrix_product_gflops": 1.0, "copy_gb_per_second": 1.0},
            "not_measured": ["PyTorch compiled, resnet50: no compiler"],
        }
    )
    cells = ["2.00" if name == "PyTorch" else "-" for name in IMPLEMENTATIONS if name != "se_flax"]
    assert f"| resnet50 | training | 4 | {' | '.join(cells)} | - |" in page
    assert "no compiler" in page


def test_the_page_of_convolutions_shows_those_below_half_of_pytorchs_speed():
    rows = [
        {
            "size": size,
            "channels": 16,
            "kernel": 3,
            "stride": 1,
            "batch_size": 32,
            "forward": {"se_flax": 1.0, "PyTorch": size / 4},
            "gradients": {"se_flax": 1.0, "PyTorch": 2.0},
        }
        for size in (1, 2, 4)
    ]
    page = convolutions.page(
        {
            "environment": ENVIRONMENT,
            "dtype": "float32",
            "cores": 2,
            "cores_used": 1,
            "note": "A noisy machine.",
            "convolutions": rows,
        }
    )
    assert "A noisy machine." in page
    assert "The median ratio is 0.50; 1 of 3 are below 0.5." in page
    assert "| 1 | 16 | 3 | 1 | 32 | 1.000 | 0.250 | 0.25 |" in page
    assert "The median ratio is 2.00; 0 of 3 are below 0.5." in page


def test_the_page_of_detectors_compares_round_by_round():
    seconds = {
        ("se_flax", "resnet50"): [2.0, 4.0, 8.0],
        ("se_flax", "se_resnet50"): [2.2, 4.4, 80.0],
        ("torchvision", "resnet50"): [3.0, 6.0, 4.0],
    }
    rows = [
        {
            "implementation": implementation,
            "network": network,
            "mode": "training",
            "batch_size": 2,
            "seconds": each,
            "first_seconds": 60.0,
            "peak_mb": 1234.5,
        }
        for (implementation, network), each in seconds.items()
    ]
    results = {"environment": ENVIRONMENT, "cores": 2, "torch": "2", "torchvision": "3"}
    results |= {"torchvision_has_operators": False, "detectors": rows}
    page = detectors.page(results)
    assert "fasterrcnn_resnet50_fpn | se_flax | 4000 (2000 to 8000) | 0.50 | 60 | 1234 |" in page
    assert "- training: speed-up of se_flax over torchvision 1.50." in page
    assert "- training: SE costs +10.0% of the time." in page
    assert "operators did not load" in page
    assert "did not load" not in detectors.page(results | {"torchvision_has_operators": True})


@pytest.mark.slow
def test_a_sweep_times_both_passes_of_a_convolution(monkeypatch):
    for name, values in (("SIZES", (4,)), ("CHANNELS", (3,)), ("KERNELS", (5,)), ("STRIDES", (2,))):
        monkeypatch.setattr(convolutions, name, values)
    monkeypatch.setattr(convolutions, "IMPLEMENTATIONS", {"se_flax": convolutions.our_works})
    monkeypatch.setattr(convolutions, "MOST_MULTIPLY_ADDS", 4 * 25 * 9 * 7)
    (row,) = convolutions.measure_convolutions(1, 0)
    assert row["batch_size"] == 7
    assert min(row["forward"]["se_flax"], row["gradients"]["se_flax"]) > 0
