"""Implementations of the networks compared: a training step or inference, ready to be run."""

import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.peers import stock_flax
from se_flax.config import build_model, default_config
from se_flax.data.preprocessing import Batch
from se_flax.models import model_info
from se_flax.optim import make_optimizer
from se_flax.parallel import AXIS, replicate
from se_flax.runtime.compiler import compiler_options
from se_flax.state import create_state
from se_flax.step import make_train_step


def default_dtype() -> str:
    """Returns the type in which networks compute on this platform."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


def steps_at_once() -> int:
    """Returns how many steps are started before waiting for the last of them.

    Several on an accelerator, where the host starts the next step while the device computes.
    """
    return 1 if jax.default_backend() == "cpu" else 10


def _images(name: str, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    info = model_info(name)
    generator = np.random.default_rng(0)
    size = info.input_size
    images = generator.normal(size=(batch_size, size, size, 3)).astype(np.float32)
    return images, generator.integers(0, info.num_classes, batch_size)


def se_flax_work(name: str, mode: str, batch_size: int, dtype: str) -> Callable[[], None]:
    """Returns a step of `se_flax.step` on one device, or inference."""
    images, labels = _images(name, batch_size)
    config = default_config()
    config.model.name, config.batch_size, config.dtype = name, batch_size, dtype
    model = build_model(config, model_info(name).num_classes, None)
    optimizer = make_optimizer(config.optimizer, lambda step: 0.1)
    state = jax.jit(lambda: create_state(model, optimizer, images.shape[1:], 0, False))()
    if mode == "inference":
        apply = functools.partial(model.apply, train=False)
        return _inference(apply, state.variables, images, **_our_options())
    step = jax.pmap(
        make_train_step(model, optimizer),
        axis_name=AXIS,
        in_axes=(None, 0),
        out_axes=None,
        donate_argnums=0,
        devices=jax.devices()[:1],
    )
    batch = Batch(*map(jnp.asarray, (images[None], labels[None], np.ones((1, batch_size), bool))))
    state = replicate(state)
    return _training(step.lower(state, batch).compile(**_our_options()), state, batch)


def stock_flax_work(name: str, mode: str, batch_size: int, dtype: str) -> Callable[[], None]:
    """Returns a step of an ordinary training loop, or inference."""
    images, labels = _images(name, batch_size)
    model = stock_flax.NETWORKS[name](jnp.dtype(dtype))
    variables = jax.jit(lambda: model.init(jax.random.key(0), images[:1], False))()
    if mode == "inference":
        return _inference(functools.partial(model.apply, train=False), variables, images)
    optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.1, 0.9))

    def loss_of(params, batch_stats, images, labels):
        logits, updated = model.apply(
            {"params": params, "batch_stats": batch_stats}, images, True, mutable=["batch_stats"]
        )
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return jnp.mean(loss), updated["batch_stats"]

    @functools.partial(jax.jit, donate_argnums=0)
    def step(state, batch):
        params, batch_stats, opt_state = state
        (loss, batch_stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            params, batch_stats, *batch
        )
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return (optax.apply_updates(params, updates), batch_stats, opt_state), loss

    params, batch_stats = variables["params"], variables["batch_stats"]
    batch = jax.device_put((images, labels))
    return _training(step, (params, batch_stats, optimizer.init(params)), batch)


def _our_options() -> dict[str, Any]:
    return {"compiler_options": compiler_options() if jax.default_backend() == "cpu" else {}}


def _inference(apply, variables, images, **options):
    infer, images = jax.jit(apply, **options), jnp.asarray(images)

    def run():
        for _ in range(steps_at_once()):
            logits = infer(variables, images)
        jax.block_until_ready(logits)

    return run


def _training(step, state, batch):
    def run():
        nonlocal state
        for _ in range(steps_at_once()):
            state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))

    return run


def pytorch_work(
    name: str, mode: str, batch_size: int, dtype: str, compiled: bool
) -> Callable[[], None]:
    """Returns a training step or inference in PyTorch."""
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # the first run must compile
    import torch

    from experiments.peers import pytorch

    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    model = pytorch.network(name).to(device)
    model.train(mode == "training")
    images, labels = _images(name, batch_size)
    images = torch.tensor(images, device=device).permute(0, 3, 1, 2)  # channels last in memory
    labels = torch.tensor(labels, device=device)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9, weight_decay=1e-4)
    forward = torch.compile(model) if compiled else model
    cast = torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")

    def step():
        if mode == "training":
            optimizer.zero_grad(set_to_none=True)
            with cast:
                loss = torch.nn.functional.cross_entropy(forward(images), labels)
            loss.backward()
            optimizer.step()
        else:
            with torch.inference_mode(), cast:
                forward(images)

    def run():
        for _ in range(steps_at_once()):
            step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


IMPLEMENTATIONS: dict[str, Callable[..., Callable[[], None]]] = {
    "se_flax": se_flax_work,
    "stock Flax": stock_flax_work,
    "PyTorch": functools.partial(pytorch_work, compiled=False),
    "PyTorch compiled": functools.partial(pytorch_work, compiled=True),
}
