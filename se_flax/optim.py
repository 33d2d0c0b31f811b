"""The optimiser and its learning rate schedule, from a config."""

import fnmatch
from collections.abc import Sequence

import jax
import optax
from ml_collections import ConfigDict

# The usual decay of the mean squared gradient and eps: EfficientNet's code's, Zeiler's, and
# Kingma and Ba's.
_USUAL = {
    "sgd": (0.0, 0.0),  # has neither
    "rmsprop": (0.9, 1e-3),
    "adadelta": (0.95, 1e-6),
    "adam": (0.999, 1e-8),
    "adamw": (0.999, 1e-8),
}


def peak_learning_rate(config: ConfigDict) -> float:
    """Returns the learning rate for this batch size, before any schedule.

    With a `batch_size_reference`, the config's rate is for a batch of that size, and scales
    linearly with the batch (Goyal et al., arXiv:1706.02677, section 2.1).
    """
    options = config.optimizer
    if not options.batch_size_reference:
        return options.learning_rate
    return options.learning_rate * config.batch_size / options.batch_size_reference


def learning_rate_schedule(config: ConfigDict, steps_per_epoch: int) -> optax.Schedule:
    """Returns the learning rate as a function of the step, from 0.

    A linear warm-up over the fraction `warmup` of the run comes first. "step" then multiplies
    the rate by `drop_factor` at each of the fractions `drop_at` of the run, "cosine" takes it to
    0 at the run's end along half a cosine, and "constant" leaves it. "exponential" multiplies it
    by `decay_rate` every `decay_epochs` epochs, at once (`staircase`) or evenly from step to
    step; it counts them from the start of the run, so that after the warm-up the rate is what it
    would be without one, as in EfficientNet's published code.
    """
    schedule, peak = config.schedule, peak_learning_rate(config)
    total = config.num_epochs * steps_per_epoch
    warmup = round(schedule.warmup * total)
    if schedule.name == "step":
        drops = {
            round(fraction * total) - warmup: schedule.drop_factor for fraction in schedule.drop_at
        }
        main = optax.piecewise_constant_schedule(peak, drops)
    elif schedule.name == "cosine":
        main = optax.cosine_decay_schedule(peak, total - warmup)
    elif schedule.name == "exponential":
        period = schedule.decay_epochs * steps_per_epoch
        whole = optax.exponential_decay(
            peak, period, schedule.decay_rate, staircase=schedule.staircase
        )

        def main(step):
            return whole(step + warmup)

    else:
        main = optax.constant_schedule(peak)
    if not warmup:
        return main
    start = optax.linear_schedule(schedule.warmup_start * peak, peak, warmup)
    return optax.join_schedules([start, main], [warmup])


def make_optimizer(
    config: ConfigDict, learning_rate: optax.Schedule
) -> optax.GradientTransformation:
    """Returns the optimiser, by name.

    Weight decay is part of the gradient, as in the papers, but for "adamw". Unless
    `decay_norm_and_bias`, only arrays of two or more axes decay: the kernels, and neither biases
    nor the scales of batch norm.

    With `config.freeze_body` only classifiers are updated. The pairs of `rates` multiply what is
    added to the parameters.

    - "sgd": with momentum m, v = m v + g, of Nesterov's kind or not.
    - "rmsprop": as TensorFlow's `tf.train.RMSPropOptimizer`, s = d s + (1 - d) g^2 from s = 1
      and v = m v + rate g / sqrt(s + eps): the mean square s begins at 1, eps is inside the root,
      and the rate is that of the step at which a gradient enters v.
    - "adadelta": Zeiler, arXiv:1212.5701, algorithm 1, times the rate; it has no momentum.
    - "adam" (Kingma and Ba, arXiv:1412.6980) and "adamw" (Loshchilov and Hutter,
      arXiv:1711.05101): with momentum for beta_1 and d for beta_2.
    """
    options = config.optimizer
    mask = None if options.decay_norm_and_bias else _kernels
    usual_decay, usual_epsilon = _USUAL[options.name]
    decay, epsilon = options.decay or usual_decay, options.epsilon or usual_epsilon
    momentum, weight_decay = options.momentum, options.weight_decay
    in_gradient = optax.add_decayed_weights(weight_decay, mask)
    if options.name == "sgd":
        rule = optax.sgd(learning_rate, momentum or None, options.nesterov)
    elif options.name == "rmsprop":
        rule = optax.rmsprop(
            learning_rate, decay, epsilon, initial_scale=1.0, momentum=momentum or None
        )
    elif options.name == "adadelta":
        rule = optax.adadelta(learning_rate, decay, epsilon)
    elif options.name == "adam":
        rule = optax.adam(learning_rate, momentum, decay, epsilon)
    else:
        rule = optax.adamw(
            learning_rate, momentum, decay, epsilon, weight_decay=weight_decay, mask=mask
        )
        in_gradient = optax.identity()
    optimizer = optax.chain(
        optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity(),
        in_gradient,
        rule,
    )
    if options.rates:
        optimizer = optax.chain(optimizer, _layer_wise(options.rates))
    if config.freeze_body:
        optimizer = optax.partition({True: optimizer, False: optax.set_to_zero()}, _in_head)
    return optimizer


def _kernels(params):
    return jax.tree.map(lambda param: param.ndim > 1, params)


def _layer_wise(rates: Sequence[tuple[str, float]]) -> optax.GradientTransformation:
    def scale(path, update):
        name = _name(path)
        factors = (factor for pattern, factor in rates if fnmatch.fnmatch(name, pattern))
        return next(factors, 1.0) * update

    return optax.stateless(lambda updates, _: jax.tree_util.tree_map_with_path(scale, updates))


def _in_head(params):
    return jax.tree_util.tree_map_with_path(
        lambda path, _: path[0].key.endswith("classifier"), params
    )


def _name(path) -> str:
    return "/".join(key.key for key in path)
