"""Uploads the network of a run to the Hugging Face hub, for this package and for timm.

python -m se_flax.publish --workdir=runs/quickstart --repo=user/name
python -m se_flax.publish --workdir=runs/quickstart --repo=user/name --dry_run

It writes a folder with the weights, config.json, the run's config and a model card, and uploads it.
The hub's repository is then a source of weights: `se_flax.load_pretrained(NAME, "user/name")`, and,
for a network that timm has, too, `timm.create_model("hf-hub:user/name", pretrained=True)`.
"""

import os
import re
from collections.abc import Iterable

from absl import app, flags

from se_flax import __version__
from se_flax.cli.command import parse_flags, run_command
from se_flax.cli.trained import define_run_flags
from se_flax.errors import UserError
from se_flax.export.network import network_of_run
from se_flax.export.record import record_of
from se_flax.export.repository import check_registered, repository_files
from se_flax.pretrained.hub import import_package, is_hub_id
from se_flax.runtime.paths import Path, is_in_bucket, to_path
from se_flax.runtime.status import busy
from se_flax.runtime.storage import is_writable, make_folder, write_bytes

_NAME = r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"


def write_repository(
    workdir: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    repository: str,
    *,
    step: str | int = "best",
    seed: int | None = None,
    license: str = "unknown",
) -> dict[str, int]:
    """Writes the files of a hub repository with a run's network to a folder.

    `model.safetensors` has the weights, in timm's layout if timm has a network that computes the
    same, and otherwise in our own. `config.json` describes them, `recipe.py` is the run's config,
    and `README.md` a model card with the run's results. timm reads the folder, too, as
    "local-dir:FOLDER". An auxiliary classifier, which only training uses, is left out for timm.

    Args:
        workdir: folder of the run.
        folder: where to write; it is made if there is none.
        repository: hub id, OWNER/NAME, which the model card names.
        step, seed: see `se_flax.load_run`.
        license: the hub's name of the licence, such as "apache-2.0".

    Returns:
        The size of each file in bytes by name.

    Raises:
        UserError: if the run or checkpoint does not exist, its network does not come with this
            package, or the id is none of the hub.
    """
    _check_repository(repository)
    check_registered(workdir)
    trained = network_of_run(workdir, step, seed)
    record = record_of(to_path(workdir), trained.step, seed)
    files = repository_files(trained, record, repository, license)
    make_folder(to_path(folder))
    for name, content in files.items():
        write_bytes(to_path(folder) / name, content)
    return {name: len(content) for name, content in files.items()}


def upload(
    folder: str | os.PathLike[str], repository: str, files: Iterable[str], private: bool = False
) -> str:
    """Uploads files to a repository of the Hugging Face hub, in one commit; returns its address.

    The repository is made if there is none. Files of the same names in it are replaced, and its
    other files are kept. It needs a token with the right to write, of `hf auth login` or in the
    variable HF_TOKEN.

    Args:
        folder: where the files are.
        repository: hub id, OWNER/NAME.
        files: names of the files.
        private: whether only its owner may see the repository.

    Raises:
        UserError: if there is no token, the hub cannot be reached or refuses, or the repository
            exists and is public, but should be private.
    """
    _check_repository(repository)
    hub = _hub()
    errors = import_package("huggingface_hub.errors", "huggingface_hub").errors
    api = hub.HfApi(library_name="se_flax", library_version=__version__)
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        if private and not api.model_info(repository).private:
            raise UserError(
                f"{repository} exists on the Hugging Face hub and is public; make it private in "
                "its settings, or give another --repo=OWNER/NAME"
            )
        api.upload_folder(
            repo_id=repository,
            folder_path=str(folder),
            allow_patterns=list(files),
            commit_message=f"Upload a network of se_flax {__version__}",
        )
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, errors.HTTPError) as error:
        raise UserError(_reason(error, repository)) from error
    return str(url)


def _reason(error: Exception, repository: str) -> str:
    """Returns a sentence for an error of the hub's library."""
    line = str(error).strip().partition("\n")[0] or type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return (
            f"the Hugging Face hub does not let this token write to {repository} ({line}); use one "
            "with the right to write, of an owner of that name"
        )
    if status is not None:
        return f"the Hugging Face hub refuses the upload to {repository}: {line}"
    return (
        f"cannot upload to {repository} on the Hugging Face hub: {line}; the files are kept, and "
        "the same command tries again"
    )


def _hub():
    """Returns the hub's library; raises `UserError` if it is not installed or has no token."""
    hub = import_package("huggingface_hub.utils", "huggingface_hub")
    if not hub.get_token():
        raise UserError(
            "uploading needs a token of the Hugging Face hub with the right to write; make one at "
            "https://huggingface.co/settings/tokens, and give it to hf auth login or set HF_TOKEN"
        )
    return hub


def _check_repository(repository: str) -> None:
    """Raises `UserError` unless a hub repository can have this id."""
    fits = re.fullmatch(f"{_NAME}/{_NAME}", repository) and not re.search(r"--|\.\.", repository)
    if not fits or not is_hub_id(repository) or repository.endswith(".git"):
        raise UserError(
            f'"{repository}" is no name of a hub repository; give OWNER/NAME, each of letters, '
            "digits and single signs of -_. between them, and no ending of a file"
        )


def define_flags() -> None:
    """Declares the options of this command."""
    define_run_flags()
    flags.DEFINE_string("repo", None, "Repository of the Hugging Face hub, OWNER/NAME.")
    flags.DEFINE_bool("dry_run", False, "Write the folder, and upload nothing.")
    flags.DEFINE_bool("private", False, "Make the repository private.")
    flags.DEFINE_string(
        "license", "unknown", "Licence of the weights by the hub's name for it, such as apache-2.0."
    )
    flags.DEFINE_string("output", None, "Folder to write; by default the workdir's folder publish.")


def main(argv: list[str]) -> None:
    """Writes the folder, uploads it, and prints what is in it."""
    options = flags.FLAGS
    folder = _check_options()
    with busy("loading"):
        files = write_repository(
            options.workdir,
            folder,
            options.repo,
            step=options.step or "best",
            seed=options.seed,
            license=options.license,
        )
    print(f"{folder}:")
    for name, size in files.items():
        print(f"  {name:<18} {size / 1e6:>9,.3f} MB")
    target = f"{options.repo} (private)" if options.private else options.repo
    if options.dry_run:
        print(f"without --dry_run, these files are uploaded to {target}")
        return
    print(f"uploading to {target}", flush=True)
    url = upload(folder, options.repo, files, options.private)
    print(f"published: {url}")


def _check_options() -> Path:
    """Returns the folder to write; raises `UserError` if options are missing or do not fit."""
    options = flags.FLAGS
    for name, example in (("workdir", "runs/quickstart"), ("repo", "user/name")):
        if not options[name].value:
            raise UserError(f"--{name} is missing, for example --{name}={example}")
    _check_repository(options.repo)
    check_registered(options.workdir)
    workdir = to_path(options.workdir)
    folder = to_path(options.output) if options.output else workdir / "publish"
    if not is_writable(folder if folder.is_dir() else folder.parent):
        raise UserError(f"{folder} cannot be written to; give another folder with --output=DIR")
    if not options.dry_run:
        _hub()
        if is_in_bucket(folder):
            raise UserError(
                f"{folder} is in a bucket, but uploads are from a disk; give --output=DIR"
            )
    return folder


if __name__ == "__main__":
    define_flags()
    app.run(run_command(main), flags_parser=parse_flags)
