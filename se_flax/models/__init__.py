"""Networks. Importing this package imports all its modules, and each registers its networks."""

import importlib
import pkgutil

from se_flax.models.preparation import Preparation
from se_flax.models.registry import create_model, list_models, model_info

for _file in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_file.name}")

__all__ = ["Preparation", "create_model", "list_models", "model_info"]
