"""The optimiser and its learning rate schedule, from a config."""

import jax
import optax
from ml_collections import ConfigDict


def learning_rate_schedule(config: ConfigDict, steps_per_epoch: int) -> optax.Schedule:
    """Returns the learning rate as a function of the step, from 0.

    A linear warm-up over the fraction `warmup` of the run comes first. "step" then multiplies
    the rate by `drop_factor` at each of the fractions `drop_at` of the run, "cosine" takes it to
    0 at the run's end along half a cosine, and "constant" leaves it.
    """
    schedule, peak = config.schedule, config.optimizer.learning_rate
    total = config.num_epochs * steps_per_epoch
    warmup = round(schedule.warmup * total)
    if schedule.name == "step":
        drops = {
            round(fraction * total) - warmup: schedule.drop_factor for fraction in schedule.drop_at
        }
        main = optax.piecewise_constant_schedule(peak, drops)
    elif schedule.name == "cosine":
        main = optax.cosine_decay_schedule(peak, total - warmup)
    else:
        main = optax.constant_schedule(peak)
    if not warmup:
        return main
    start = optax.linear_schedule(schedule.warmup_start * peak, peak, warmup)
    return optax.join_schedules([start, main], [warmup])


def make_optimizer(
    config: ConfigDict, learning_rate: optax.Schedule
) -> optax.GradientTransformation:
    """Returns SGD with momentum; weight decay is part of the gradient, as in the papers.

    Unless `decay_norm_and_bias`, only arrays of two or more axes decay: the kernels, and
    neither biases nor the scales of batch norm.
    """
    options = config.optimizer
    mask = None if options.decay_norm_and_bias else _kernels
    return optax.chain(
        optax.clip_by_global_norm(options.clip_norm) if options.clip_norm else optax.identity(),
        optax.add_decayed_weights(options.weight_decay, mask),
        optax.sgd(learning_rate, options.momentum or None, options.nesterov),
    )


def _kernels(params):
    return jax.tree.map(lambda param: param.ndim > 1, params)
