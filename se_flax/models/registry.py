"""The list of networks: one name gives the module, its input and where it was published."""

import dataclasses
import fnmatch
import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike

from se_flax.errors import UserError, nearest
from se_flax.layers.squeeze_excite import SqueezeExcite


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What is known of a registered network.

    Attributes:
        name: the name `create_model` takes.
        module: the `nn.Module` class that builds it.
        fields: the class's fields that make this network of it.
        input_size: height and width, in pixels, of the images it was published for.
        paper: where it was published.
    """

    name: str
    module: type[nn.Module]
    fields: dict[str, Any]
    input_size: int
    paper: str


_MODELS: dict[str, ModelInfo] = {}

SE_PAPER = "Hu et al., Squeeze-and-Excitation Networks, arXiv:1709.01507"


def register(
    name: str, module: type[nn.Module], *, input_size: int, paper: str, **fields: Any
) -> None:
    """Adds a network under `name`, and the same with SE blocks (r = 16) under `se_<name>`."""
    _MODELS[name] = ModelInfo(name, module, fields, input_size, paper)
    with_se = {**fields, "se": functools.partial(SqueezeExcite, reduction=16)}
    _MODELS[f"se_{name}"] = ModelInfo(
        f"se_{name}", module, with_se, input_size, f"{SE_PAPER}; body: {paper}"
    )


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
            such as `se=functools.partial(SqueezeExcite, reduction=8)`; for a network with SE
            blocks, `reduction=8` says the same in short.

    Raises:
        UserError: if there is no such model or the model has no such field.
    """
    info = model_info(name)
    fields = {**info.fields, "num_classes": num_classes, "dtype": dtype}
    if "reduction" in overrides:
        if fields.get("se") is None:
            raise UserError(
                f'"reduction" does not apply to "{name}", which has no SE block ("se_{name}" has)'
            )
        reduction = overrides.pop("reduction")
        if not isinstance(reduction, int) or reduction < 1:
            raise UserError(f"reduction must be a whole number of at least 1, not {reduction!r}")
        fields["se"] = functools.partial(fields["se"], reduction=reduction)
    known = {field.name for field in dataclasses.fields(info.module)} - {"parent", "name"}
    for field in overrides:
        if field not in known:
            raise UserError(
                f'the model "{name}" has no field "{field}"'
                f"{nearest(field, known)}; its fields are {', '.join(sorted(known))}"
            )
    return info.module(**{**fields, **overrides})
