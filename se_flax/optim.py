"""The optimiser and its learning rate schedule."""

import fnmatch
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float
from ml_collections import ConfigDict

# The usual decay of the mean squared gradient, and eps: as in EfficientNet's code (rmsprop),
# PyTorch (rmsprop_torch), Zeiler (adadelta), Kingma and Ba (adam, adamw), and timm (lamb).
_USUAL = {
    "sgd": (0.0, 0.0),  # has neither
    "rmsprop": (0.9, 1e-3),
    "rmsprop_torch": (0.99, 1e-8),
    "adadelta": (0.95, 1e-6),
    "adam": (0.999, 1e-8),
    "adamw": (0.999, 1e-8),
    "lamb": (0.999, 1e-6),
}
_FEWEST_RATES = 2**17


@flax.struct.dataclass
class Hyperparameters:
    """What the compiled training step takes as an argument, so that it is not compiled again.

    Attributes:
        learning_rates: the learning rate of each update, from 0 (see `learning_rate_table`).
        weight_decay: see `make_optimizer`.
        stage: which stage of the run this is; each has its own step (see `se_flax.stages`).
    """

    learning_rates: Float[Array, " n"]
    weight_decay: Float[Array, ""]
    stage: int = flax.struct.field(pytree_node=False, default=0)


def peak_learning_rate(options: ConfigDict, batch_size: int) -> float:
    """Returns the learning rate for a batch size, before any schedule.

    If `base_batch_size` is set, the rate is for a batch of that size and scales linearly with the
    batch size (Goyal et al., arXiv:1706.02677, section 2.1).

    Args:
        options: `config.optimizer`.
        batch_size: images per step, over all devices.
    """
    if not options.base_batch_size:
        return options.learning_rate
    return options.learning_rate * batch_size / options.base_batch_size


def learning_rate_schedule(
    options: ConfigDict, peak: float, num_epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    """Returns the learning rate as a function of the step, which counts from 0.

    During the first `warmup_epochs` it rises linearly from `warmup_factor` times the peak to the
    peak. All epochs are counted from the start of the run, warm-up included:

    - "step" multiplies the rate by `gamma` at each of the `milestones`, in epochs;
    - "cosine" lowers it to 0 at the end of the run, along half a cosine that starts at the end of
      the warm-up;
    - "exponential" multiplies it by `decay_rate` every `decay_epochs` epochs, in one drop
      (`staircase`) or smoothly. After a warm-up the rate is what it would be without one, as in
      EfficientNet's published code;
    - "constant" does not change it.

    Args:
        options: `config.schedule`.
        peak: see `peak_learning_rate`.
        num_epochs: length of the run, in epochs.
        steps_per_epoch: length of an epoch, in steps.
    """
    total = num_epochs * steps_per_epoch
    warmup = min(round(options.warmup_epochs * steps_per_epoch), total)
    if options.name == "step":
        factors = {
            round(epoch * steps_per_epoch) - warmup: options.gamma for epoch in options.milestones
        }
        main = optax.piecewise_constant_schedule(peak, factors)
    elif options.name == "cosine":
        main = optax.cosine_decay_schedule(peak, max(1, total - warmup))
    elif options.name == "exponential":
        period = options.decay_epochs * steps_per_epoch
        decayed = optax.exponential_decay(
            peak, period, options.decay_rate, staircase=options.staircase
        )

        def from_warmup_on(step):
            return decayed(step + warmup)

        main = from_warmup_on
    else:
        main = optax.constant_schedule(peak)
    if not warmup:
        return main
    start = optax.linear_schedule(options.warmup_factor * peak, peak, warmup)
    return optax.join_schedules([start, main], [warmup])


def learning_rate_table(schedule: optax.Schedule, total_steps: int) -> Float[Array, " n"]:
    """Returns the learning rates of at least the steps of a run, bit for bit those of a schedule.

    The length of the table is a power of two and at least 131,072, so that runs of other lengths
    can use the same compiled step.
    """
    size = max(_FEWEST_RATES, 1 << (total_steps - 1).bit_length())
    rates = jax.vmap(lambda step: jnp.asarray(schedule(step), jnp.float32))
    return jax.jit(rates)(jnp.arange(size))


def notes_on_schedule(options: ConfigDict, num_epochs: int) -> list[str]:
    """Returns a sentence for each part of a schedule that a run is too short to reach.

    Args:
        options: `config.schedule`.
        num_epochs: length of the run, in epochs.
    """
    notes = []
    if options.warmup_epochs >= num_epochs:
        notes.append(
            f"the whole run is warm-up: config.schedule.warmup_epochs={options.warmup_epochs:g}"
        )
    if options.name == "step" and options.milestones and options.milestones[0] >= num_epochs:
        milestones = ", ".join(f"{epoch:g}" for epoch in options.milestones)
        notes.append(
            f"the learning rate never drops: config.schedule.milestones=({milestones}) are past "
            f"the end of the run"
        )
    return notes


def make_optimizer(
    options: ConfigDict,
    learning_rate: optax.Schedule,
    trained: Callable[[Any], Any] | None = None,
    weight_decay: Float[Array, ""] | float | None = None,
) -> optax.GradientTransformation:
    """Returns the optimiser that `options.name` names.

    Weight decay is added to the gradient, as in the papers, except for "adamw" and "lamb". Unless
    `decay_norm_and_bias` is set, only arrays of two or more axes decay: the kernels, but neither
    biases nor the scales of batch norm. `lr_multipliers` multiply the updates of parameters.

    - "sgd": with momentum m, v = m v + g, plain or in Nesterov's form.
    - "rmsprop": as TensorFlow's `tf.train.RMSPropOptimizer`, s = d s + (1 - d) g^2 from s = 1
      and v = m v + rate g / sqrt(s + eps): the mean square s starts at 1, eps is inside the root,
      and each gradient enters v times the learning rate of its own step.
    - "rmsprop_torch": as PyTorch's `torch.optim.RMSprop`, s = d s + (1 - d) g^2 from s = 0,
      v = m v + g / (sqrt(s) + eps), and x = x - rate v.
    - "adadelta": Zeiler, arXiv:1212.5701, algorithm 1, times the rate; it has no momentum.
    - "adam" (Kingma and Ba, arXiv:1412.6980) and "adamw" (Loshchilov and Hutter,
      arXiv:1711.05101): with momentum for beta_1 and d for beta_2.
    - "lamb" (You et al., arXiv:1904.00962, algorithm 2, with phi(z) = z): u = the update of "adam"
      + weight decay * x, and x = x - rate |x| / |u| u for each array x. As in timm and NVIDIA's
      code, arrays that are left out of weight decay (norms and biases) are updated by u alone,
      without |x| / |u|. The kernels are scaled also if weight decay is 0, unlike in timm.

    Args:
        options: `config.optimizer`.
        learning_rate: the learning rate as a function of the step.
        trained: returns for each parameter of a tree whether it is updated; None for all.
        weight_decay: used instead of that of the options, unless that is 0; inside a compiled
            function it can be one of the arguments.
    """
    mask = None if options.decay_norm_and_bias else _kernels
    if weight_decay is None or not options.weight_decay:
        weight_decay = options.weight_decay
    decoupled = options.name in ("adamw", "lamb")
    in_gradient = optax.add_decayed_weights(weight_decay, mask)
    optimizer = optax.chain(
        optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity(),
        optax.identity() if decoupled else in_gradient,
        _rule(options, learning_rate, weight_decay, mask),
    )
    if options.lr_multipliers:
        optimizer = optax.chain(optimizer, _layer_wise(options.lr_multipliers))
    if trained is not None:
        optimizer = optax.partition({True: optimizer, False: optax.set_to_zero()}, trained)
    return optimizer


def _rule(options, learning_rate, weight_decay, mask) -> optax.GradientTransformation:
    """Returns the update rule of `make_optimizer`; only decoupled decay is part of it."""
    usual_decay, usual_epsilon = _USUAL[options.name]
    decay, epsilon = options.decay or usual_decay, options.epsilon or usual_epsilon
    momentum = options.momentum
    if options.name == "sgd":
        return optax.sgd(learning_rate, momentum or None, options.nesterov)
    if options.name == "rmsprop":
        return optax.rmsprop(
            learning_rate, decay, epsilon, initial_scale=1.0, momentum=momentum or None
        )
    if options.name == "rmsprop_torch":
        return optax.chain(
            optax.scale_by_rms(decay, epsilon, eps_in_sqrt=False),
            optax.trace(momentum),
            optax.scale_by_learning_rate(learning_rate),
        )
    if options.name == "adadelta":
        return optax.adadelta(learning_rate, decay, epsilon)
    if options.name == "adam":
        return optax.adam(learning_rate, momentum, decay, epsilon)
    if options.name == "adamw":
        return optax.adamw(
            learning_rate, momentum, decay, epsilon, weight_decay=weight_decay, mask=mask
        )
    ratio = optax.scale_by_trust_ratio()
    return optax.chain(
        optax.scale_by_adam(momentum, decay, epsilon),
        optax.add_decayed_weights(weight_decay, mask),
        optax.masked(ratio, mask) if mask else ratio,
        optax.scale_by_learning_rate(learning_rate),
    )


def _kernels(params):
    return jax.tree.map(lambda param: param.ndim > 1, params)


def _layer_wise(multipliers: Sequence[tuple[str, float]]) -> optax.GradientTransformation:
    def scale(path, update):
        name = _name(path)
        factors = (factor for pattern, factor in multipliers if fnmatch.fnmatch(name, pattern))
        return next(factors, 1.0) * update

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


def in_classifier(params: Any) -> Any:
    """Returns for each parameter whether it is a classifier's, in the structure of `params`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[0].key.endswith("classifier"), params
    )


def _name(path) -> str:
    return "/".join(key.key for key in path)
