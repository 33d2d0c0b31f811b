"""SE blocks behind the layers of any linen module, the module itself left as it is."""

import fnmatch
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax

from se_flax.errors import UserError, nearest
from se_flax.layers.squeeze_excite import SqueezeExcite


class AddSE(nn.Module):
    """A module whose chosen layers are each followed by an SE block; see `add_se`.

    Attributes:
        wrapped_module: the module; under a name that none of its own layers is likely to have.
        layers: paths of the layers, or patterns of paths.
        make_block: makes the SE block of a layer, called with its name.
    """

    wrapped_module: nn.Module
    layers: tuple[str, ...]
    make_block: Callable[..., SqueezeExcite]

    def setup(self):  # noqa: D102
        nn.share_scope(self, self.wrapped_module)

    @nn.compact
    def __call__(self, *args, **kwargs) -> Any:
        """Calls the module, rescaling what its chosen layers return."""
        depth = len(self.scope.path)
        blocks: dict[str, nn.Module] = {}  # by the path of the layer they follow
        maps: set[str] = set()  # paths of layers that return maps
        found: set[str] = set()  # items of `layers` that match some of them

        spatial_dims = self.make_block(parent=None).spatial_dims

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
                    "transformation, where add_se cannot put a block"
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
                    f'the module has no layer "{layer}" that returns a map{nearest(layer, valid)}; '
                    f"it has {', '.join(valid)}"
                )
        return output


def add_se(
    module: nn.Module, layers: str | list[str] | tuple[str, ...], reduction: int = 16, **fields: Any
) -> nn.Module:
    """Puts an SE block behind chosen layers of a module.

    The module may be any linen module, and is not changed; the result is called as it is. The
    layers may not be inside of lifted transformations (nn.remat, nn.jit, nn.scan); one that is
    called more than once has the same block behind each call. The variables are the module's own,
    under the same paths, so that weights of the module still load, and beside them those of each
    block, named after the layer: of `block1/conv2` it is `block1_conv2_se`.

        model = add_se(MyNetwork(), ["block1/conv2", "block2/*"], reduction=8)
        variables = model.init(key, images)

    Args:
        module: the module.
        layers: paths of submodules, such as "block1/conv2", that return maps
            [n, height, width, channels]; "*" and "?" stand for any characters or one.
        reduction: ratio by which the block's bottleneck is narrower than the map.
        **fields: other fields of `SqueezeExcite`.

    Raises:
        UserError: when the result is initialised or applied, if no such layer is called (the
            message lists the valid ones) or it is inside of a lifted transformation; at once, if
            `module` is no module.
    """
    if not isinstance(module, nn.Module):
        raise UserError(f"add_se needs a module, such as MyNetwork(), not {module!r}")
    if isinstance(module, AddSE):
        raise UserError("the module has SE blocks of add_se already; name all layers in one call")
    layers = (layers,) if isinstance(layers, str) else tuple(layers)
    if not layers:
        raise UserError("add_se needs the path of at least one layer")
    make_block = functools.partial(SqueezeExcite, reduction=reduction, **fields)
    make_block(parent=None)  # refuses values that the block does not know
    return AddSE(module, layers, make_block)
