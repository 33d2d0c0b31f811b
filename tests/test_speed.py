import jax
import jax.numpy as jnp
import pytest

from experiments.peers import stock_flax
from experiments.speed import IMPLEMENTATIONS, markdown, ratios
from se_flax import create_model
from se_flax.models import model_info


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
            "environment": {
                "device_count": 1,
                "device": "d",
                "platform": "p",
                "versions": {"jax": "1"},
            },
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
