"""Networks of independent PyTorch implementations, with random weights and statistics."""

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from experiments.peers import torchvision_operators  # noqa: F401  before torchvision

warnings.filterwarnings("ignore", module="timm|torchvision|pretrainedmodels")
import pretrainedmodels  # noqa: E402
import timm  # noqa: E402
import torchvision  # noqa: E402
from pretrainedmodels.models.bninception import BNInception  # noqa: E402

from tests.references import cifar_models  # noqa: E402


def build(reference: str) -> torch.nn.Module:
    """Returns the network `library:name`, with the same random weights each time."""
    library, _, name = reference.partition(":")
    # Its own initialisation takes half a minute.
    options = {"init_weights": False} if name == "inception_v3" else {}
    makers: dict[str, Callable[[], torch.nn.Module]] = {
        "timm": lambda: timm.create_model(name),
        "torchvision": lambda: torchvision.models.get_model(name, weights=None, **options),
        "pretrainedmodels": lambda: vars(pretrainedmodels)[name](pretrained=None),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return makers[library]() if library in makers else cifar_models.build(library, name)


def randomise(model: torch.nn.Module, input_size: int) -> torch.nn.Module:
    """Gives a network random weights, biases, batch-norm scales and statistics; returns it.

    The statistics are those of a random batch, so that activations neither vanish nor explode.
    """
    generator = torch.Generator().manual_seed(0)

    def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return torch.empty_like(like).uniform_(low, high, generator=generator)

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += uniform(parameter, -0.2, 0.2)
            elif parameter.ndim == 2:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.03)
        norms = {k: m for k, m in model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
        for name, norm in norms.items():
            if re.search(
                r"(layer\d|blocks\.\d)\.\d+\.(conv\d\.)?bn|unit\d+\.body|features\.\d\.\d+\.block",
                name,
            ):
                # Residual branches are weaker than the shortcut, as after training. Otherwise
                # a deep network is chaotic, and magnifies rounding.
                norm.weight *= 0.3
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        model(torch.randn(2, 3, input_size, input_size, generator=generator))
        for norm in norms.values():
            # Dividing by a tiny number would magnify rounding.
            norm.running_var.clamp_(min=0.1 * float(norm.running_var.mean()))
    return model.eval()


def tensors(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Returns a network's parameters and statistics by name."""
    return {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}


def outputs(model: torch.nn.Module, images: np.ndarray) -> Any:
    """Returns the outputs of a network for images [n, h, w, RGB], computed in float64."""
    images = torch.from_numpy(images).permute(0, 3, 1, 2).double()
    if isinstance(model, BNInception):
        images = images.flip(1)  # it takes blue, green and red
    with torch.no_grad():
        return model.double()(images)


def logits(model: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    """Returns the logits for images [n, h, w, RGB], computed in float64."""
    return outputs(model, images).numpy()


def train_step(
    model: torch.nn.Module, images: np.ndarray, weights: np.ndarray
) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Returns the outputs of a network in training, and gradients and batch statistics by name.

    All are computed in float64, without dropout, for images [n, h, w, RGB]. The gradients are of
    sum(weights * logits), plus 0.4 times the same sum over auxiliary logits. Variances are those
    of the batch itself, not the unbiased estimates that PyTorch keeps.
    """
    model = model.double().train()
    if hasattr(model, "drop_rate"):
        model.drop_rate = 0.0
    biased = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Dropout | torchvision.ops.StochasticDepth):
            module.p = 0.0
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0  # keeps only the statistics of the batch

            def count(module, inputs, name=name):
                n = inputs[0].numel() / inputs[0].shape[1]
                biased[name] = (n - 1) / n

            module.register_forward_pre_hook(count)
    images = torch.from_numpy(images).permute(0, 3, 1, 2).double()
    if isinstance(model, BNInception):
        images = images.flip(1)
    result = model(images)
    outputs = list(result) if isinstance(result, tuple) else [result]
    weights = torch.from_numpy(weights)
    factors = (1.0, 0.4)
    sum(f * torch.sum(weights * x) for f, x in zip(factors, outputs, strict=False)).backward()

    values = {name: parameter.grad.numpy() for name, parameter in model.named_parameters()}
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            values[name] = buffer.numpy() * biased[name.removesuffix(".running_var")]
        elif name.endswith("running_mean"):
            values[name] = buffer.numpy()
    return [output.detach().numpy() for output in outputs], values
