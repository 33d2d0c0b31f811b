"""The registry of networks: each name gives a module, its input and its source."""

import csv
import dataclasses
import fnmatch
import functools
import importlib.resources
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from se_flax.errors import UserError, nearest
from se_flax.layers.blocks import block_of, factory_of, fields_of
from se_flax.layers.squeeze_excite import SqueezeExcite
from se_flax.models.preparation import Preparation

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2470, 0.2435, 0.2616)
RATES = ("dropout", "stochastic_depth")
"""Fields of networks that are the probability of dropping something."""


@dataclasses.dataclass(frozen=True)
class Published:
    """A published result of a network.

    Attributes:
        dataset: data set whose test or validation images were used.
        top1_error: top-1 error in percent.
        top5_error: top-5 error in percent, or None if it was not published.
        source: publication.
    """

    dataset: str
    top1_error: float
    top5_error: float | None
    source: str


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """Description of a registered network.

    Attributes:
        name: name for `create_model`.
        module: the network's `nn.Module` class.
        fields: the values of the class's fields that define this network.
        input_size: height and width, in pixels, of the images it was published for.
        num_classes: number of classes of the data set it was published for.
        crop_pct: for its published accuracy, images were resized to a short side of
            input_size / crop_pct, and the centre of size input_size was cropped.
        interpolation: how images are resized, "bilinear" or "bicubic".
        mean: mean of red, green and blue on a scale of 0 to 1.
        std: their standard deviation; images are normalised to (image - mean) / std. CIFAR
            networks have the values of CIFAR-10's training images; other data sets of such images
            have their own.
        paper: publication.
        same_as: if the same network is registered under two names, the one under which its
            results and weights are listed; otherwise None.
    """

    name: str
    module: type[nn.Module]
    fields: dict[str, Any]
    input_size: int
    num_classes: int
    crop_pct: float
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    paper: str
    same_as: str | None = None

    @property
    def preparation(self) -> Preparation:
        """How images were prepared for the published network; weights may have their own way."""
        return Preparation(self.input_size, self.crop_pct, self.interpolation, self.mean, self.std)

    @property
    def published(self) -> list[Published]:
        """The network's published results."""
        own = self.same_as or self.name
        return [result for name, result in _published_results() if name == own]


_MODELS: dict[str, ModelInfo] = {}

SE_PAPER = "Hu et al., Squeeze-and-Excitation Networks, arXiv:1709.01507"


def register(
    name: str,
    module: type[nn.Module],
    *,
    input_size: int,
    paper: str,
    num_classes: int = 1000,
    crop_pct: float = 0.875,
    interpolation: str = "bilinear",
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    published_with_se: bool = False,
    se: Callable[..., nn.Module] = SqueezeExcite,
    se_form: dict[str, Any] | None = None,
    **fields: Any,
) -> None:
    """Registers a network as `name`, and the same network with SE blocks as `se_<name>`.

    Args:
        name, module, input_size, paper, num_classes, crop_pct, interpolation, mean, std: see
            `ModelInfo`.
        published_with_se: whether the published network has SE blocks itself (SENet-154,
            EfficientNet). Then both names give this network; `se=None` removes the blocks.
        se: factory for the SE blocks; by default with r = 16.
        se_form: other values of fields, and possibly of `mean`, for the network with SE blocks.
        **fields: see `ModelInfo.fields`.
    """
    info = ModelInfo(
        name, module, fields, input_size, num_classes, crop_pct, interpolation, mean, std, paper
    )
    se_form = dict(se_form or {})
    with_se = dataclasses.replace(
        info,
        name=f"se_{name}",
        mean=se_form.pop("mean", mean),
        fields={**fields, "se": se, **se_form},
    )
    if published_with_se:
        info = dataclasses.replace(info, fields=with_se.fields)
        with_se = dataclasses.replace(with_se, same_as=name)
    else:
        with_se = dataclasses.replace(with_se, paper=f"{SE_PAPER}; backbone: {paper}")
    _MODELS[info.name], _MODELS[with_se.name] = info, with_se


@functools.cache
def _published_results() -> list[tuple[str, Published]]:
    table = importlib.resources.files("se_flax.models") / "published_results.csv"
    return [
        (
            row["model"],
            Published(
                row["dataset"],
                float(row["top1_error"]),
                float(row["top5_error"]) if row["top5_error"] else None,
                row["source"],
            ),
        )
        for row in csv.DictReader(table.read_text().splitlines())
    ]


def list_models(pattern: str = "*") -> list[str]:
    """Returns the names of all registered networks that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(_MODELS, pattern))


def model_info(name: str) -> ModelInfo:
    """Returns a network's description; raises `UserError` if the name is not registered."""
    if name not in _MODELS:
        raise UserError(
            f'there is no model "{name}"{nearest(name, _MODELS)}; '
            "se_flax.list_models() returns all names"
        )
    return _MODELS[name]


def create_model(
    name: str, num_classes: int = 1000, *, dtype: DTypeLike = jnp.float32, **overrides: Any
) -> nn.Module:
    """Builds a registered network.

    The module maps images [n, height, width, channels] to float32 logits [n, num_classes]:

        model = create_model("se_resnet50")
        variables = model.init(key, images, train=False)
        logits = model.apply(variables, images, train=False)

    Args:
        name: one of `list_models()`.
        num_classes: size of the classifier's output.
        dtype: computation type; parameters and batch statistics stay float32.
        **overrides: fields in which the module differs from the published network, for example
            `se_stages=(2, 3)`. `se` is a name in `se_flax.layers.blocks.BLOCKS`, "sk" for the
            selective kernels of a ResNet or ResNeXt, or a factory for blocks (see `make_block`).
            Fields of the block are accepted as well, for example `reduction=8`.

    Raises:
        UserError: if there is no model of this name, or a field or its value is invalid.
    """
    info = model_info(name)
    if not isinstance(num_classes, int) or num_classes < 1:
        raise UserError(f"num_classes must be a whole number of at least 1, not {num_classes!r}")
    fields = {**info.fields, "num_classes": num_classes, "dtype": dtype}
    if "se" in overrides:
        overrides = {**overrides, "se": block_of(overrides["se"])}
    block = overrides.get("se", fields.get("se"))
    known, of_block = _field_names(info.module), _block_fields(info, block)
    for field in overrides:
        _check_field(info, field, block)
        if field in RATES and not 0 <= overrides[field] < 1:
            raise UserError(f"{field} must be at least 0 and below 1, not {overrides[field]!r}")
    fields.update({field: value for field, value in overrides.items() if field in known})
    for_block = {field: value for field, value in overrides.items() if field in of_block}
    about_se = [field for field in overrides if field in of_block or field.startswith("se_")]
    if about_se and fields.get("se") is None:
        raise UserError(
            f'"{about_se[0]}" does not apply to "{name}" without SE blocks'
            + ("" if name.startswith("se_") else f'; use "se_{name}"')
        )
    if for_block:
        fields["se"] = functools.partial(fields["se"], **for_block)
        fields["se"]()  # raises for invalid field values
    return info.module(**fields)


def field_type(name: str, field: str, se: str | None = None) -> type:
    """Returns the type of a field that `create_model` accepts, for reading it from text.

    Args:
        name: name of a network.
        field: field of the network or of its SE blocks.
        se: name of the blocks, if not the network's own.

    Returns:
        bool, int, float, str or tuple.

    Raises:
        UserError: if there is no such network, blocks or field, or the field's values cannot be
            written as text.
    """
    info = model_info(name)
    block = block_of(se) or info.fields.get("se")
    _check_field(info, field, block)
    own = {known.name: known.type for known in dataclasses.fields(info.module)}
    of_block = inspect.signature(factory_of(block or SqueezeExcite)).parameters
    annotation = own[field] if field in own else of_block[field].annotation
    if field == "se":
        return str
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    choices = typing.get_args(annotation) if is_union else (annotation,)
    kinds = [typing.get_origin(choice) or choice for choice in choices]
    plain = [kind for kind in kinds if kind in (bool, int, float, str, tuple)]
    if not plain:
        raise UserError(
            f'the field "{field}" of the model "{name}" is not a plain value; set it in Python'
        )
    return plain[0]


def field_value(name: str, field: str, overrides: Mapping[str, Any]) -> Any:
    """Returns the value of a field that `create_model(name, **overrides)` has; None if it lacks it.

    Args:
        name: name of a network.
        field: field of the network or of its SE blocks.
        overrides: see `create_model`.
    """
    info = model_info(name)
    given = {**info.fields, **overrides}
    if field in given:
        return given[field]
    of_network = {known.name: known.default for known in dataclasses.fields(info.module)}
    if field in of_network:
        return of_network[field]
    block = block_of(given.get("se"))
    parameter = inspect.signature(block).parameters.get(field) if block else None
    return parameter.default if parameter else None


def _check_field(info: ModelInfo, field: str, block: Callable[..., nn.Module] | None) -> None:
    known, of_block = _field_names(info.module), _block_fields(info, block)
    if field not in known | of_block:
        raise UserError(
            f'the model "{info.name}" has no field "{field}"'
            f"{nearest(field, known | of_block)}; its fields are {', '.join(sorted(known))}, "
            f"and the fields of its SE blocks {', '.join(sorted(of_block))}"
        )


def _block_fields(info: ModelInfo, block: Callable[..., nn.Module] | None) -> set[str]:
    return fields_of(block or SqueezeExcite) - _field_names(info.module)


def _field_names(module: type[nn.Module]) -> set[str]:
    return {field.name for field in dataclasses.fields(module)} - {"parent", "name"}
