"""The networks as NNX modules, for training code that is written with `flax.nnx`.

    model = se_flax.nnx.create_model("se_resnet20_cifar", num_classes=10, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param)

    @nnx.jit
    def train_step(model, optimizer, images, labels):
        def loss_of(model):
            logits = model(images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        loss, gradients = nnx.value_and_grad(loss_of)(model)
        optimizer.update(model, gradients)
        return loss

    model.eval()
    logits = model(images)

A block, for an NNX module of your own, takes feature maps in place of images:

    block = se_flax.SqueezeExcite(reduction=16)
    self.se = se_flax.nnx.from_linen(block, block.init(rngs.params(), feature_maps))
"""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import flax.core
import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Key

from se_flax import models
from se_flax.errors import UserError
from se_flax.layers.add_se import AddSE
from se_flax.models.base import Logits, Maps
from se_flax.models.initial_values import initial_values

__all__ = ["Network", "create_model", "from_linen", "to_linen"]

_TYPES = {"params": nnx.Param, "batch_stats": nnx.BatchStat}


class Network(nnx.Module):
    """A network as an NNX module; `create_model` and `from_linen` make one.

    As other NNX modules, it begins in training mode; `eval()` and `train()` change the mode.

    It does not use Flax's bridge, `nnx.bridge.ToNNX`, which has no modes, fails in `nnx.capture`,
    and replaces batch statistics by new variables, which `nnx.jit(..., graph=False)` loses.

    Attributes:
        module: the linen network.
        params: the parameters, `nnx.Param`, in the linen network's nested dictionaries.
        batch_stats: the running statistics, `nnx.BatchStat`, likewise.
        rngs: the stream of keys for dropout and stochastic depth; None if there is none.
        deterministic: whether dropout and stochastic depth are off; False in training mode.
        use_running_average: whether running statistics normalise; False in training mode. The
            networks have one switch for both, so it must be equal to `deterministic`.
    """

    def __init__(
        self, module: nn.Module, variables: Mapping[str, Any], rngs: nnx.Rngs | None = None
    ):
        self.module = module
        self.params = _as_variables(nnx.Param, variables["params"])
        self.batch_stats = _as_variables(nnx.BatchStat, variables.get("batch_stats", {}))
        self.rngs = nnx.data(_forked(_stream(rngs)))
        self.deterministic = False
        self.use_running_average = False

    def __call__(
        self,
        images: Float[ArrayLike, "n h w c"],
        train: bool | None = None,
        features: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> Logits | Maps:
        """Returns logits, or feature maps.

        Training updates the batch statistics in place.

        The gates of the SE blocks are in what `nnx.capture` returns, under their linen names, and
        so is all else that a linen network sows:

            logits, sown = nnx.capture(model, nnx.Intermediate)(images)
            gate = sown["stage1_unit1"]["se"]["excitation"][0]  # [n, channels]

        Args:
            images: batch of normalised images, [n, h, w, c].
            train: whether to compute as in training; by default, what the mode says.
            features: whether to return the feature maps by stage, instead of logits.
            rngs: keys for dropout and stochastic depth; by default those of `self.rngs`.

        Raises:
            UserError: if the images do not fit the network, dropout has no key, or `deterministic`
                and `use_running_average` differ.
        """
        train = self._is_training() if train is None else train
        captures = hasattr(self, "__captures__")  # inside nnx.capture
        options = {"train": train} if _takes_train(self.module) else {}
        options |= {"features": True} if features else {}
        try:
            outputs, updated = self.module.apply(
                _as_arrays(self),
                images,
                mutable=["batch_stats"] * train + ["intermediates"] * captures,
                rngs=self._keys(rngs) if train else {},
                **options,
            )
        except flax.errors.InvalidRngError as error:
            raise UserError(
                'training draws random numbers, but there is no stream "dropout" or "default" of '
                "keys; give rngs=nnx.Rngs(0) to the call, or where the network is made"
            ) from error
        if "batch_stats" in updated:
            nnx.update(self.batch_stats, updated["batch_stats"])
        for name, sown in updated.get("intermediates", {}).items():
            self.sow(nnx.Intermediate, name, sown, reduce_fn=_joined, init_fn=dict)
        return outputs

    def set_view(
        self, deterministic: bool | None = None, use_running_average: bool | None = None
    ) -> None:
        """Sets the mode of a copy that `nnx.view` makes, which shares its variables.

        Args:
            deterministic: see the class; unchanged if None.
            use_running_average: see the class; unchanged if None.
        """
        if deterministic is not None:
            self.deterministic = deterministic
        if use_running_average is not None:
            self.use_running_average = use_running_average

    def _is_training(self) -> bool:
        if self.deterministic != self.use_running_average:
            raise UserError(
                f"deterministic is {self.deterministic} and use_running_average is "
                f"{self.use_running_average}, but the network has one switch for both; call "
                "model.train() or model.eval()"
            )
        return not self.deterministic

    def _keys(self, rngs: nnx.Rngs | None) -> dict[str, Key[Array, ""]]:
        """Returns a new key for dropout by the name of its stream, if there is one."""
        stream = self.rngs if rngs is None else _stream(rngs)
        return {} if stream is None else {"dropout": stream()}


def create_model(
    name: str,
    num_classes: int = 1000,
    *,
    rngs: nnx.Rngs,
    image_shape: tuple[int, int, int] | None = None,
    dtype: DTypeLike = jnp.float32,
    **overrides: Any,
) -> Network:
    """Builds a registered network with new parameters, in training mode.

    Its variables are those of `jax.jit(model.init)(rngs.params(), images)` of the linen network.

    Args:
        name: one of `se_flax.list_models()`.
        num_classes: size of the classifier's output.
        rngs: its stream "params" gives the key of the parameters, and its stream "dropout" those
            of dropout and stochastic depth. "default" takes the place of either.
        image_shape: height, width and channels of an image; by default those of the images that
            the network was published for. Only networks with dense layers over positions (VGG,
            the small ones) depend on height and width.
        dtype: computation type; parameters and batch statistics stay float32.
        **overrides: see `se_flax.create_model`.

    Raises:
        UserError: as `se_flax.create_model`, and if `rngs` has no key for the parameters.
    """
    module = models.create_model(name, num_classes, dtype=dtype, **overrides)
    if not isinstance(rngs, nnx.Rngs) or not ("params" in rngs or "default" in rngs):
        raise UserError(
            'rngs must have a stream "params" or "default" of keys for the parameters, '
            f"for example nnx.Rngs(0), not {rngs!r}"
        )
    _check_hashable(module)
    size = models.model_info(name).input_size
    variables = initial_values(module, rngs.params(), image_shape or (size, size, 3))
    return Network(module, variables, rngs)


def from_linen(
    model: nn.Module, variables: Mapping[str, Any], rngs: nnx.Rngs | None = None
) -> Network:
    """Returns a linen network with its variables as an NNX module, in training mode.

    For example with published weights, or those of a run:

        variables = se_flax.load_pretrained("se_resnet50", source)
        model = se_flax.nnx.from_linen(se_flax.create_model("se_resnet50"), variables)
        model.eval()

    Args:
        model: a network of this package, one with blocks from `se_flax.add_se`, a block, or any
            linen module that is called as model(images, train=...) or model(images).
        variables: its variables, which are not changed: "params" and, with batch norms,
            "batch_stats". No other collections are supported.
        rngs: its stream "dropout" or "default" gives the keys of dropout and stochastic depth.

    Raises:
        UserError: if `model` is not a linen module with values as its fields, or `variables` lacks
            parameters or has other collections.
    """
    if not isinstance(model, nn.Module):
        raise UserError(
            f"model must be a linen network, for example of se_flax.create_model, not {model!r}"
        )
    _check_hashable(model)
    if "params" not in variables or set(variables) - set(_TYPES):
        raise UserError(
            'variables must hold "params", possibly "batch_stats", and nothing else, not '
            f"{', '.join(map(repr, variables)) or 'nothing'}"
        )
    return Network(model, variables, rngs)


def to_linen(model: Network) -> tuple[nn.Module, dict[str, Any]]:
    """Returns the linen network and its variables, for all else in this package.

    For example, `network.apply(variables, images)` gives the logits of `model` in evaluation.
    """
    return model.module, _as_arrays(model)


def _check_hashable(module: nn.Module) -> None:
    """Raises `UserError` if `nnx.jit` cannot tell the module from others by its hash."""
    for field in dataclasses.fields(module):
        value = getattr(module, field.name)
        try:
            hash(value)
        except TypeError as error:
            raise UserError(
                f'the field "{field.name}" of {type(module).__name__} is a '
                f"{type(value).__name__}, which cannot be hashed, as nnx.jit needs; "
                "for a list, use a tuple"
            ) from error


def _takes_train(module: nn.Module) -> bool:
    """Whether a call of the module has an argument `train`."""
    called = module.wrapped_module if isinstance(module, AddSE) else module
    return "train" in inspect.signature(type(called).__call__).parameters


def _as_variables(variable: type[nnx.Variable], values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values as NNX variables, in nested dictionaries that NNX looks into."""
    unfrozen = flax.core.unfreeze(values)
    return nnx.data(jax.tree.map(lambda value: variable(jnp.asarray(value)), unfrozen))


def _as_arrays(model: Network) -> dict[str, Any]:
    """Returns the variables of the linen network."""
    collections = {name: getattr(model, name) for name in _TYPES}
    return {
        name: jax.tree.map(
            lambda variable: variable.get_value(),
            collection,
            is_leaf=lambda node: isinstance(node, nnx.Variable),
        )
        for name, collection in collections.items()
        if collection
    }


def _stream(rngs: nnx.Rngs | None) -> nnx.RngStream | None:
    """Returns the stream of keys for dropout, if there is one."""
    return rngs["dropout"] if rngs is not None and {"dropout", "default"} & set(rngs) else None


def _forked(stream: nnx.RngStream | None) -> nnx.RngStream | None:
    """Returns a stream of its own for a layer, as those of NNX have."""
    return None if stream is None else stream.fork()


def _joined(before: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Returns what calls of one capture have sown, in the order of the calls, as linen does."""
    if not before:
        return new
    return jax.tree.map(
        lambda first, second: (*first, *second),
        before,
        new,
        is_leaf=lambda node: isinstance(node, tuple),
    )
