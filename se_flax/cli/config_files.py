"""Where the configs that come with the package are, and how they are found from any folder.

They are in configs/ of the repository. A wheel has them as se_flax/configs, so that it installs no
top-level package of so common a name.
"""

import importlib.abc
import importlib.machinery
import pathlib
import sys

_PACKAGE = pathlib.Path(__file__).resolve().parent.parent
_INSTALLED = _PACKAGE / "configs"
FOLDER = _INSTALLED if _INSTALLED.is_dir() else _PACKAGE.parent / "configs"


def shipped() -> list[str]:
    """Returns the names of the configs that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.py"))


def find(name: str) -> pathlib.Path:
    """Returns the file of a config; the path may not exist.

    Args:
        name: a path. Where it does not exist, the name of a shipped config, in one of the forms
            NAME, NAME.py, configs/NAME and configs/NAME.py.
    """
    path = pathlib.Path(name)
    if not path.is_file() and path.parent.as_posix() in (".", "configs"):
        own = FOLDER / f"{path.name.removesuffix('.py')}.py"
        return own if own.is_file() else path
    return path


def similar(name: str) -> list[str]:
    """Returns the configs that may have been meant by a name that is none."""
    path = pathlib.Path(name)
    others = [str(other) for other in path.parent.glob("*.py")]
    if path.parent.as_posix() in (".", "configs"):
        suffix = ".py" if path.suffix else ""
        others += [str(path.parent / f"{own}{suffix}") for own in shipped()]
    return others


def make_importable() -> None:
    """Lets `from configs import NAME` find the shipped configs, from any folder.

    A package `configs` of the user is searched first, such as a folder in the current one.
    """
    if _FINDER not in sys.meta_path:
        sys.meta_path.append(_FINDER)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds `configs` and its modules in `FOLDER`; as the last finder, it is asked last."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname == "configs":
            package = importlib.machinery.ModuleSpec(fullname, None, is_package=True)
            package.submodule_search_locations = [str(FOLDER)]
            return package
        if fullname.startswith("configs."):
            return importlib.machinery.PathFinder.find_spec(fullname, [str(FOLDER)])
        return None


_FINDER = _Finder()
