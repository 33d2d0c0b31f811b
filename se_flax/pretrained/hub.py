"""Files on the Hugging Face hub."""

import pathlib
from typing import Any

from se_flax.errors import UserError

# A file's suffix shows that a source is a file and not a hub id.
TORCH_SUFFIXES = (".pth", ".pt", ".th", ".bin", ".tar")
# The weights of a repository: its `config.json` belongs to them.
HUB_FILES = ("model.safetensors", "pytorch_model.bin")
SUFFIXES = (".safetensors", ".caffemodel", *TORCH_SUFFIXES)


def is_hub_id(source: str | pathlib.Path) -> bool:
    """Whether a source that is no existing file can be a hub id, OWNER/REPOSITORY."""
    return pathlib.Path(source).suffix not in SUFFIXES and str(source).count("/") == 1


def download(repository: str, filename: str, optional: bool = False) -> pathlib.Path | None:
    """Returns the local copy of a repository's file, which is downloaded if there is none.

    Args:
        repository: hub id.
        filename: name of the file.
        optional: whether to return None if the repository has no such file.

    Raises:
        UserError: if the file cannot be read.
    """
    huggingface_hub = import_package("huggingface_hub.utils", "huggingface_hub")
    errors = import_package("huggingface_hub.errors", "huggingface_hub").errors
    # The library warns at each attempt; only the outcome of the last one matters.
    huggingface_hub.utils.logging.set_verbosity_error()
    try:
        return pathlib.Path(huggingface_hub.hf_hub_download(repository, filename))
    except (OSError, ValueError, errors.HfHubHTTPError, errors.EntryNotFoundError) as error:
        unreachable = isinstance(error, errors.LocalEntryNotFoundError)
        if optional and isinstance(error, errors.EntryNotFoundError) and not unreachable:
            return None
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"cannot read {filename} of {repository} from the Hugging Face hub: {reason}"
        ) from error


def import_package(name: str, package: str | None = None) -> Any:
    """Imports a module of an optional package; returns the package.

    Raises:
        UserError: if it is not installed.
    """
    package = package or name
    try:
        __import__(name)
        return __import__(package)
    except ImportError as error:
        raise UserError(
            f"the package {package} is missing; install it with pip install {package}"
        ) from error
