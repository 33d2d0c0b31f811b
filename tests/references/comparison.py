"""Compares our networks with independent PyTorch implementations, with the same random weights."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from se_flax import create_model
from se_flax.models import model_info
from se_flax.pretrained.convert import convert
from se_flax.pretrained.layouts import layouts_of

REFERENCES: list[tuple[str, str]] = [
    ("resnet18", "torchvision:resnet18"),
    ("resnet34", "torchvision:resnet34"),
    ("resnet50", "torchvision:resnet50"),
    ("resnet101", "torchvision:resnet101"),
    ("resnet152", "torchvision:resnet152"),
    ("resnext50_32x4d", "torchvision:resnext50_32x4d"),
    ("resnext101_32x4d", "timm:resnext101_32x4d"),
    ("se_resnet50", "timm:seresnet50"),
    ("se_resnet101", "timm:seresnet101"),
    ("se_resnet152", "timm:seresnet152"),
    ("se_resnext50_32x4d", "timm:seresnext50_32x4d"),
    ("se_resnext101_32x4d", "timm:seresnext101_32x4d"),
    ("resnet101_caffe", "pretrainedmodels:cafferesnet101"),
    ("se_resnet50_caffe", "pretrainedmodels:se_resnet50"),
    ("se_resnet101_caffe", "timm:legacy_seresnet101"),
    ("se_resnet152_caffe", "timm:legacy_seresnet152"),
    ("se_resnext50_32x4d_caffe", "pretrainedmodels:se_resnext50_32x4d"),
    ("se_resnext101_32x4d_caffe", "timm:legacy_seresnext101_32x4d"),
    ("senet154", "timm:legacy_senet154"),
    ("vgg16", "torchvision:vgg16"),
    ("vgg16_bn", "torchvision:vgg16_bn"),
    ("bn_inception", "pretrainedmodels:bninception"),
    ("inception_v3", "torchvision:inception_v3"),
    ("inception_v3", "timm:inception_v3"),
    ("inception_resnet_v2", "timm:inception_resnet_v2"),
    ("inception_resnet_v2", "pretrainedmodels:inceptionresnetv2"),
    *((f"efficientnet_b{i}", f"timm:tf_efficientnet_b{i}") for i in range(8)),
    *((f"resnet{depth}_cifar", f"akamaster:resnet{depth}") for depth in (20, 32, 44, 56, 110)),
    *((f"resnet{depth}_cifar", f"chenyaofo:resnet{depth}") for depth in (20, 32, 44, 56)),
    *((f"resnet{depth}_cifar", f"pytorchcv:resnet{depth}") for depth in (20, 56, 110)),
    *((f"se_resnet{depth}_cifar", f"pytorchcv:seresnet{depth}") for depth in (20, 56, 110)),
    ("resnet164_cifar", "pytorchcv:resnet164bn"),
    ("se_resnet164_cifar", "pytorchcv:seresnet164bn"),
    ("preact_resnet164_cifar", "pytorchcv:preresnet164bn"),
    ("efficientnet_b0_torch", "torchvision:efficientnet_b0"),
    ("efficientnet_b5_torch", "torchvision:efficientnet_b5"),
    ("efficientnet_b5_timm", "timm:efficientnet_b5"),
]

# Compared at `ODD`, too.
ODD = (97, 131)  # height and width
AT_TWO_SIZES: list[tuple[str, str]] = [
    ("mobilenet_v1", "timm:mobilenetv1_100"),
    ("mobilenet_v2", "timm:mobilenetv2_100"),
    ("mobilenet_v2", "torchvision:mobilenet_v2"),
    *((f"mobilenet_v3_{size}", f"timm:tf_mobilenetv3_{size}_100") for size in ("large", "small")),
    *((f"mobilenet_v3_{size}_timm", f"timm:mobilenetv3_{size}_100") for size in ("large", "small")),
    ("mobilenet_v3_large_torch", "torchvision:mobilenet_v3_large"),
    ("mobilenet_v3_small_torch", "torchvision:mobilenet_v3_small"),
    ("efficientnet_v2_s", "timm:tf_efficientnetv2_s"),
    ("efficientnet_v2_s_torch", "torchvision:efficientnet_v2_s"),
    ("regnet_x_400mf", "timm:regnetx_004"),
    ("regnet_x_400mf_torch", "torchvision:regnet_x_400mf"),
    ("regnet_y_400mf", "timm:regnety_004"),
    ("regnet_y_400mf", "torchvision:regnet_y_400mf"),
    ("regnet_y_800mf_torch", "torchvision:regnet_y_800mf"),
    ("resnet18d", "timm:resnet18d"),
    ("resnet50d", "timm:resnet50d"),
    ("se_resnet152d", "timm:seresnet152d"),
    ("resnetrs50", "timm:resnetrs50"),
    *((name, f"timm:{name}") for name in ("skresnet18", "skresnet34", "skresnext50_32x4d")),
]
REFERENCES += AT_TWO_SIZES

# Further sizes of these, in the table only.
FURTHER_AT_TWO_SIZES: list[tuple[str, str]] = [
    *((f"efficientnet_v2_{size}", f"timm:tf_efficientnetv2_{size}") for size in "ml"),
    *((f"efficientnet_v2_{size}_torch", f"torchvision:efficientnet_v2_{size}") for size in "ml"),
    *(
        (f"regnet_{kind}_{size}", f"timm:regnet{kind}_{number}")
        for kind in "xy"
        for size, number in (
            ("600mf", "006"),
            ("800mf", "008"),
            ("1_6gf", "016"),
            ("3_2gf", "032"),
            ("4gf", "040"),
            ("6_4gf", "064"),
            ("8gf", "080"),
            ("12gf", "120"),
            ("16gf", "160"),
        )
    ),
    ("regnet_x_1_6gf", "torchvision:regnet_x_1_6gf"),
    ("regnet_y_8gf_torch", "torchvision:regnet_y_8gf"),
    *((f"resnet{depth}d", f"timm:resnet{depth}d") for depth in (34, 101, 152, 200)),
    *((f"resnetrs{depth}", f"timm:resnetrs{depth}") for depth in (101, 152, 200)),
]
FURTHER: list[tuple[str, str]] = [
    *FURTHER_AT_TWO_SIZES,
    *((f"efficientnet_b{i}_torch", f"torchvision:efficientnet_b{i}") for i in (1, 2, 3, 4, 6, 7)),
    *((f"efficientnet_b{i}_torch", f"timm:efficientnet_b{i}") for i in range(5)),
]

# One of each family.
TRAINED: list[tuple[str, str]] = [
    ("resnet18", "torchvision:resnet18"),
    ("se_resnext50_32x4d", "timm:seresnext50_32x4d"),
    ("se_resnet50_caffe", "timm:legacy_seresnet50"),
    ("vgg16_bn", "torchvision:vgg16_bn"),
    ("bn_inception", "pretrainedmodels:bninception"),
    ("inception_v3", "torchvision:inception_v3"),
    ("inception_resnet_v2", "timm:inception_resnet_v2"),
    ("efficientnet_b0", "timm:tf_efficientnet_b0"),
    ("resnet20_cifar", "akamaster:resnet20"),
    ("se_resnet20_cifar", "pytorchcv:seresnet20"),
    ("efficientnet_b0_torch", "torchvision:efficientnet_b0"),
    ("mobilenet_v1", "timm:mobilenetv1_100"),
    ("mobilenet_v2", "torchvision:mobilenet_v2"),
    ("mobilenet_v3_small", "timm:tf_mobilenetv3_small_100"),
    ("mobilenet_v3_large_torch", "torchvision:mobilenet_v3_large"),
    ("efficientnet_v2_s_torch", "torchvision:efficientnet_v2_s"),
    ("regnet_y_400mf", "timm:regnety_004"),
    ("resnet50d", "timm:resnet50d"),
    ("resnetrs50", "timm:resnetrs50"),
    ("skresnet18", "timm:skresnet18"),
    ("skresnext50_32x4d", "timm:skresnext50_32x4d"),
]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The difference between two networks.

    Attributes:
        parameters, their_parameters: numbers of parameters.
        logits: largest deviation, relative to the largest logit; the larger one of two sizes.
        spread: standard deviation of the logits; if it were 0, equal logits would prove nothing.
    """

    parameters: int
    their_parameters: int
    logits: float
    spread: float


def compare(name: str, reference: str) -> Comparison:
    """Compares logits in evaluation: ours in float32, theirs in float64."""
    from tests.references import torch_models

    # With an odd size, every rounding of a size matters. For EfficientNet the size is even, because
    # TensorFlow's padding differs from PyTorch's only then. The networks at two sizes have both.
    in_two_sizes = (name, reference) in (*AT_TWO_SIZES, *FURTHER_AT_TWO_SIZES)
    size = _size(name, reference, 128 if "efficientnet" in name or in_two_sizes else 129)
    theirs = torch_models.randomise(torch_models.build(reference), size)
    ours = create_model(name, **_fields(reference))
    variables = convert(torch_models.tensors(theirs), ours, size, layouts_of(name))
    deviations, spreads = [], []
    for sides in ((size, size), ODD)[: 1 + in_two_sizes]:
        images = np.random.default_rng(0).standard_normal((1, *sides, 3), np.float32)
        expected = torch_models.logits(theirs, images)
        logits = jax.jit(lambda variables, images: ours.apply(variables, images))(variables, images)
        deviations.append(deviation(logits, expected))
        spreads.append(float(np.std(expected)))
    return Comparison(
        parameters=sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        their_parameters=sum(parameter.numel() for parameter in theirs.parameters()),
        logits=max(deviations),
        spread=min(spreads),
    )


@dataclasses.dataclass(frozen=True)
class TrainingComparison:
    """The difference between two networks in training, relative to the largest value of each.

    Attributes:
        logits: largest deviation of the logits, including auxiliary ones.
        batch_stats: deviation of the mean or variance of the worst batch norm.
        gradients: deviation of the gradient with respect to the worst parameter tensor.
        tensors: number of parameter tensors.
    """

    logits: float
    batch_stats: float
    gradients: float
    tensors: int


def compare_training(name: str, reference: str) -> TrainingComparison:
    """Compares logits, batch statistics and gradients in training, both in float64.

    The gradients are of a random linear function of the logits, in which auxiliary logits have
    weight 0.4. Dropout and stochastic depth are switched off.
    """
    from tests.references import torch_models

    size = _size(name, reference, 64)
    theirs = torch_models.randomise(torch_models.build(reference), size)
    off = {field: 0.0 for field in ("dropout", "stochastic_depth") if _has_field(name, field)}
    ours = create_model(name, **off, **_fields(reference))
    variables = convert(torch_models.tensors(theirs), ours, size, layouts_of(name))
    generator = np.random.default_rng(0)
    images = generator.standard_normal((4, size, size, 3), np.float32)
    weights = generator.standard_normal((4, 1000))

    # The batch's own statistics, and the gradients, named like the tensors they belong to.
    expected, their_values = torch_models.train_step(theirs, images, weights)
    their_values = convert(their_values, ours, size, layouts_of(name))

    with jax.enable_x64(True):
        variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), variables)
        zeros = jax.tree.map(jnp.zeros_like, variables["batch_stats"])

        exact = ours.clone(dtype=jnp.float64)

        def loss(params):
            logits, state = exact.apply(
                {"params": params, "batch_stats": zeros},
                jnp.asarray(images, jnp.float64),
                train=True,
                mutable=["batch_stats", "intermediates"],
            )
            outputs = [logits, *state.get("intermediates", {}).get("auxiliary_logits", ())]
            factors = (1.0, 0.4)
            total = sum(f * jnp.sum(weights * x) for f, x in zip(factors, outputs, strict=False))
            return total, (outputs, state["batch_stats"])

        gradients, (outputs, moved) = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
        momentum = getattr(ours, "norm_momentum", 0.9)
        statistics = jax.tree.map(lambda x: np.asarray(x / (1 - momentum)), moved)
        gradients, outputs = jax.tree.map(np.asarray, (gradients, outputs))

    # The gradient of a bias that a batch norm cancels is only rounding error.
    least = 1e-6 * max(np.max(np.abs(leaf)) for leaf in jax.tree.leaves(gradients))
    return TrainingComparison(
        logits=max(deviation(*pair) for pair in zip(outputs, expected, strict=True)),
        batch_stats=_worst(statistics, their_values["batch_stats"]),
        gradients=_worst(gradients, their_values["params"], least),
        tensors=len(jax.tree.leaves(gradients)),
    )


def deviation(actual: Any, expected: Any, least: float = 0.0) -> float:
    """Returns the largest difference, relative to the largest expected value, or to `least`."""
    difference = np.max(np.abs(np.asarray(actual) - np.asarray(expected)))
    return float(difference / max(np.max(np.abs(expected)), least))


def _worst(actual: Any, expected: Any, least: float = 0.0) -> float:
    deviations = jax.tree.map(lambda a, b: deviation(a, b, least), actual, expected)
    return max(jax.tree.leaves(deviations))


def _size(name: str, reference: str, small: int) -> int:
    # The heads of pretrainedmodels, and auxiliary classifiers, accept only the published size.
    published = (
        "pretrainedmodels" in reference
        or reference == "torchvision:inception_v3"
        or name.endswith("_cifar")
    )
    least = 75 if "inception" in name else small
    return model_info(name).input_size if published else max(least, small)


def _fields(reference: str) -> dict[str, Any]:
    # Both of these libraries have convolutions on the shortcuts of all networks.
    if reference.startswith(("chenyaofo", "pytorchcv")):
        return {"projection": True}
    return {"auxiliary": False} if reference == "timm:inception_v3" else {}


def _has_field(name: str, field: str) -> bool:
    return field in {f.name for f in dataclasses.fields(model_info(name).module)}
