"""Adds SE blocks after the layers of any linen module without changing the module."""

import fnmatch
import functools
import inspect
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from se_flax.errors import UserError, nearest
from se_flax.layers.blocks import block_of, factory_of, replaces_convolution


class AddSE(nn.Module):
    """A module with an SE block after each of the chosen layers; see `add_se`.

    Attributes:
        wrapped_module: the module. The field's name must not clash with one of its layers.
        layers: paths of layers, or patterns of paths.
        make_block: factory for the SE blocks, called as make_block(name=..., parent=...).
    """

    wrapped_module: nn.Module
    layers: tuple[str, ...]
    make_block: Callable[..., nn.Module]

    def setup(self):  # noqa: D102
        nn.share_scope(self, self.wrapped_module)

    @nn.compact
    def __call__(self, *args, **kwargs) -> Any:
        """Calls the module and rescales the outputs of the chosen layers."""
        depth = len(self.scope.path)
        blocks: dict[str, nn.Module] = {}  # keyed by the path of the preceding layer
        maps: set[str] = set()  # paths of layers that return feature maps
        found: set[str] = set()  # items of `layers` that match at least one of these paths

        spatial_dims = getattr(self.make_block(parent=None), "spatial_dims", 2)

        def rescale(next_function, args, kwargs, context):
            output = next_function(*args, **kwargs)
            names = context.module.scope.path[depth:]
            if context.method_name != "__call__" or not names:
                return output
            if names[0] in {block.name for block in blocks.values()}:
                return output
            if not isinstance(output, jax.Array) or output.ndim <= spatial_dims:
                return output
            path = "/".join(names)
            maps.add(path)
            matching = [layer for layer in self.layers if fnmatch.fnmatchcase(path, layer)]
            if not matching:
                return output
            found.update(matching)
            if context.module.scope.trace_level != self.scope.trace_level:
                raise UserError(
                    f'the layer "{path}" is inside nn.remat, nn.jit, nn.scan or another lifted '
                    "transformation, where add_se cannot add a block; choose a layer outside it"
                )
            if path not in blocks:
                blocks[path] = self.make_block(name=f"{'_'.join(names)}_se", parent=self)
            return blocks[path](output)

        with nn.intercept_methods(rescale):
            output = self.wrapped_module(*args, **kwargs)
        for layer in self.layers:
            if layer not in found:
                valid = sorted(maps)
                raise UserError(
                    f'the module has no layer "{layer}" that returns a feature map'
                    f"{nearest(layer, valid)}; it has {', '.join(valid)}"
                )
        return output


def add_se(
    module: nn.Module,
    layers: str | list[str] | tuple[str, ...],
    reduction: int | None = None,
    *,
    se: str | Callable[..., nn.Module] = "se",
    **fields: Any,
) -> nn.Module:
    """Adds an SE block, or another attention block, after chosen layers of a module.

    The module may be any linen module. It is not changed, and the result has the same call
    signature. A layer that is called several times shares one block between its calls. Layers
    inside lifted transformations (nn.remat, nn.jit, nn.scan) cannot be chosen.

    The module's own variables keep their paths, so its weights still load. Each block adds a
    submodule named after its layer: `block1_conv2_se` for `block1/conv2`.

        model = add_se(MyNetwork(), ["block1/conv2", "block2/*"], reduction=8)
        variables = model.init(key, images)
        model = add_se(MyNetwork(), "block*/conv2", se="eca")

    Args:
        module: any linen module.
        layers: paths of submodules that return feature maps [n, height, width, channels], for
            example "block1/conv2". "*" matches any characters, "?" exactly one.
        reduction: number of channels divided by the width of the block's bottleneck; by default
            the block's own, which is 16 for SE.
        se: the block: a name in `se_flax.layers.blocks.BLOCKS`, or a linen module's class.
        **fields: other fields of the block, by default `SqueezeExcite`.

    Raises:
        UserError: if `module` is not a linen module, already has blocks from `add_se`, `layers`
            is empty, there is no such block or field, or the block stands in place of a
            convolution. On initialisation or application of the
            result: if a path matches no layer (the message lists the valid ones), or the layer is
            inside a lifted transformation.
    """
    if not isinstance(module, nn.Module):
        raise UserError(f"add_se needs a module, for example MyNetwork(), not {module!r}")
    if isinstance(module, AddSE):
        raise UserError("the module already has SE blocks from add_se; name all layers in one call")
    layers = (layers,) if isinstance(layers, str) else tuple(layers)
    if not layers:
        raise UserError('add_se needs the path of at least one layer, for example "block1/conv2"')
    return AddSE(module, layers, _block_factory(se, reduction, fields))


def _block_factory(
    se: str | Callable[..., nn.Module], reduction: int | None, fields: dict[str, Any]
) -> Callable[..., nn.Module]:
    """Returns a factory for blocks with the given fields; raises `UserError` if they are wrong."""
    block = block_of(se)
    factory = factory_of(block) if callable(block) else None
    if block is None or not (isinstance(factory, type) and issubclass(factory, nn.Module)):
        raise UserError(f"se must be the name of a block, or the class of a module, not {se!r}")
    if replaces_convolution(block):
        raise UserError(
            f"{factory.__name__} stands in place of a convolution, and add_se adds what follows a "
            'layer; choose another block, or a ResNet or ResNeXt: create_model("resnet50", '
            'se="sk")'
        )
    if reduction is not None:
        fields = {"reduction": reduction, **fields}
    valid = set(inspect.signature(factory).parameters) - {"name", "parent"}
    for field in fields:
        if field not in valid:
            raise UserError(
                f'the block "{factory.__name__}" has no field "{field}"{nearest(field, valid)}; '
                f"its fields are {', '.join(sorted(valid))}"
            )
    make_block = functools.partial(block, **fields)
    make_block(parent=None)  # raises for invalid field values
    return make_block
