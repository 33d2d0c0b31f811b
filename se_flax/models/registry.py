"""The list of networks: one name gives the module, its input and where it was published."""

import csv
import dataclasses
import fnmatch
import functools
import importlib.resources
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from se_flax.errors import UserError, nearest
from se_flax.layers.blocks import block_of, fields_of
from se_flax.layers.squeeze_excite import SqueezeExcite

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Published:
    """A published result of a network.

    Attributes:
        dataset: on whose test or validation images.
        top1_error, top5_error: in percent; None where it was not published.
        source: where it was published.
    """

    dataset: str
    top1_error: float
    top5_error: float | None
    source: str


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What is known of a registered network.

    Attributes:
        name: the name `create_model` takes.
        module: the `nn.Module` class that builds it.
        fields: the class's fields that make this network of it.
        input_size: height and width, in pixels, of the images it was published for.
        num_classes: number of classes of the data set it was published for.
        crop_pct: its published accuracy is measured on the centre of input_size of the image,
            resized to a short side of input_size / crop_pct.
        interpolation: how images are resized, "bilinear" or "bicubic".
        mean, std: of red, green and blue, where white is 1: images are normalised to
            (image - mean) / std. Those of CIFAR networks are their data set's.
        paper: where it was published.
        same_as: the other name of the very same network, under which its results and weights
            are listed, if it has two.
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
    """Adds a network under `name`, and the same with SE blocks under `se_<name>`.

    Args:
        name, module, input_size, paper, num_classes, crop_pct, interpolation, mean, std: see
            `ModelInfo`.
        published_with_se: the network called `name` has SE blocks already (SENet-154,
            EfficientNet); both names give it, and `se=None` one without.
        se: makes its SE block; by default with r = 16.
        se_form: fields of the network with SE blocks that differ, and its `mean`, if that does.
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
        with_se = dataclasses.replace(with_se, paper=f"{SE_PAPER}; body: {paper}")
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
    """Returns the names of all networks that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(_MODELS, pattern))


def model_info(name: str) -> ModelInfo:
    """Returns what is known of a network; raises `UserError` if there is none of that name."""
    if name not in _MODELS:
        raise UserError(
            f'there is no model "{name}"{nearest(name, _MODELS)}; '
            "se_flax.list_models() returns the names of all"
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
        **overrides: fields of the module to set otherwise than the published network does,
            such as `se_stages=(2, 3)`. `se` is the block: the name of one of
            `se_flax.layers.blocks.BLOCKS`, or what makes one (see `make_block`). Fields of the
            block can be given, too, such as `reduction=8`.

    Raises:
        UserError: if there is no such model, or it has no such field or value of a field.
    """
    info = model_info(name)
    if not isinstance(num_classes, int) or num_classes < 1:
        raise UserError(f"num_classes must be a whole number of at least 1, not {num_classes!r}")
    fields = {**info.fields, "num_classes": num_classes, "dtype": dtype}
    if "se" in overrides:
        overrides = {**overrides, "se": block_of(overrides["se"])}
    known = _field_names(info.module)
    of_block = fields_of(overrides.get("se", fields.get("se")) or SqueezeExcite) - known
    for field in overrides:
        if field not in known | of_block:
            raise UserError(
                f'the model "{name}" has no field "{field}"'
                f"{nearest(field, known | of_block)}; its fields are {', '.join(sorted(known))}, "
                f"and those of its SE blocks {', '.join(sorted(of_block))}"
            )
    fields.update({field: value for field, value in overrides.items() if field in known})
    for_block = {field: value for field, value in overrides.items() if field in of_block}
    about_se = [field for field in overrides if field in of_block or field.startswith("se_")]
    if about_se and fields.get("se") is None:
        raise UserError(
            f'"{about_se[0]}" does not apply to "{name}" without SE blocks'
            + ("" if name.startswith("se_") else f' ("se_{name}" has them)')
        )
    if for_block:
        fields["se"] = functools.partial(fields["se"], **for_block)
        fields["se"]()  # refuses values that the block does not know
    return info.module(**fields)


def _field_names(module: type[nn.Module]) -> set[str]:
    return {field.name for field in dataclasses.fields(module)} - {"parent", "name"}
