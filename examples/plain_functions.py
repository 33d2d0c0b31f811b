"""Trains a network by plain functions of pytrees, for code that uses neither linen nor NNX.

    python -m examples.plain_functions

A network is two functions, `init` and `apply`, and one pytree. `functools.partial` gives them the
signatures that your code wants: here `apply_train(variables, images) -> (logits, changed)` and
`apply_eval(variables, images) -> logits`. `variables["params"]` is what an optimiser changes;
`variables["batch_stats"]` are the running statistics of the batch norms, which training returns
changed.

`Classifier` holds both in one object, as libraries do whose modules are pytrees. With Equinox it
is the same class, without its two decorators:

    class Classifier(eqx.Module):
        variables: dict
        apply: Callable = eqx.field(static=True)

Take gradients with respect to `params` alone, as here: those of `eqx.filter_grad` with respect to a
whole `Classifier` include the running statistics, which are not for an optimiser to change.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

import se_flax

Variables = dict[str, Any]
Images = Float[Array, "n h w c"]
Labels = Int[Array, "n"]

model = se_flax.create_model(
    "se_resnet20_cifar", num_classes=4, stage_sizes=(1, 1), widths=(8, 16), dropout=0.1
)
init = functools.partial(model.init, train=False)
apply_train = functools.partial(model.apply, train=True, mutable=["batch_stats"])
apply_eval = functools.partial(model.apply, train=False)
optimizer = optax.sgd(0.1, momentum=0.9)


def make_images(key: Key[Array, ""], n: int) -> tuple[Images, Labels]:
    """Returns noise of 8 x 8 pixels with one brighter quadrant, and its number from 0 to 3."""
    of_labels, of_noise = jax.random.split(key)
    labels = jax.random.randint(of_labels, (n,), 0, 4)
    quadrants = jax.nn.one_hot(labels, 4).reshape(n, 2, 2)
    bright = jnp.repeat(jnp.repeat(quadrants, 4, axis=1), 4, axis=2)[..., None]
    return bright + jax.random.normal(of_noise, (n, 8, 8, 3)), labels


def loss_of(
    params: Any, batch_stats: Any, images: Images, labels: Labels, key: Key[Array, ""]
) -> tuple[Float[Array, ""], Any]:
    """Returns the mean loss, and the changed running statistics."""
    variables = {"params": params, "batch_stats": batch_stats}
    logits, changed = apply_train(variables, images, rngs={"dropout": key})
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return loss.mean(), changed["batch_stats"]


@jax.jit
def train_step(
    variables: Variables, opt_state: Any, images: Images, labels: Labels, key: Key[Array, ""]
) -> tuple[Variables, Any, Float[Array, ""]]:
    """Returns the variables and the optimiser's state after one step, and the step's loss."""
    params = variables["params"]
    (loss, batch_stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(
        params, variables["batch_stats"], images, labels, key
    )
    updates, opt_state = optimizer.update(gradients, opt_state, params)
    params = optax.apply_updates(params, updates)
    return {"params": params, "batch_stats": batch_stats}, opt_state, loss


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["variables"], meta_fields=["apply"]
)
@dataclasses.dataclass(frozen=True)
class Classifier:
    """A trained network as one object, which is a pytree: jit, map, move and store it as one.

    Attributes:
        variables: the arrays.
        apply: the function of variables and images, which is not part of the pytree's leaves.
    """

    variables: Variables
    apply: Callable[[Variables, Images], Float[Array, "n classes"]]

    def __call__(self, images: Images) -> Float[Array, "n classes"]:
        """Returns logits."""
        return self.apply(self.variables, images)


def accuracy(classifier: Classifier, images: Images, labels: Labels) -> Float[Array, ""]:
    """Returns the share of images that are classified correctly."""
    return (classifier(images).argmax(-1) == labels).mean()


def main(num_steps: int = 60, batch_size: int = 64) -> Classifier:
    """Trains, prints loss and accuracy, and returns the trained network."""
    of_init, of_test, of_steps = jax.random.split(jax.random.key(0), 3)
    variables = jax.jit(init)(of_init, jnp.zeros((1, 8, 8, 3)))
    opt_state = optimizer.init(variables["params"])
    for step in range(1, num_steps + 1):
        of_images, of_dropout = jax.random.split(jax.random.fold_in(of_steps, step))
        images, labels = make_images(of_images, batch_size)
        variables, opt_state, loss = train_step(variables, opt_state, images, labels, of_dropout)
        if step % 20 == 0:
            print(f"step {step}: loss {loss:.3f}")
    classifier = Classifier(variables, apply_eval)
    share = jax.jit(accuracy)(classifier, *make_images(of_test, 1000))
    print(f"accuracy on 1000 other images: {share:.1%}")
    return classifier


if __name__ == "__main__":
    main()
