"""Networks. Importing this package fills the registry."""

from se_flax.models import efficientnet, inception, resnet, small, vgg
from se_flax.models.registry import create_model, list_models, model_info

__all__ = [
    "create_model",
    "efficientnet",
    "inception",
    "list_models",
    "model_info",
    "resnet",
    "small",
    "vgg",
]
