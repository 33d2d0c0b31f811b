"""What a command sets up in its process before JAX starts: a cache, and XLA's options for CPUs."""

import functools
import importlib.metadata
import importlib.util
import mmap
import os
import pathlib
import platform
import sys

# The only types of fusion for which XLA may use its YNN library on a CPU. Convolutions and small
# matrix products then use Eigen, which is faster for networks on small images: a training step of
# SE-ResNet-20 takes a fifth less time.
_FUSIONS = "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
_CPU_OPTION = "xla_cpu_experimental_ynn_fusion_type"
_JAXLIBS_WITH_IT = ("0.10.", "0.11.")


def cache_dir() -> pathlib.Path:
    """Returns the folder of caches: se_flax in $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(base).expanduser() / "se_flax"


def compiler_options() -> dict[str, str]:
    """Returns XLA's options for CPUs, for `jax.jit(f, compiler_options=...)`.

    Empty for a jaxlib that may not know them, because XLA aborts the process on an unknown option.
    """
    known = importlib.metadata.version("jaxlib").startswith(_JAXLIBS_WITH_IT)
    return {_CPU_OPTION: _FUSIONS} if known and _is_in_jaxlib(_CPU_OPTION, _FUSIONS) else {}


@functools.cache
def _is_in_jaxlib(option: str, values: str) -> bool:
    """Whether jaxlib's libraries hold the name of an option and of each of its values."""
    # In the binary, a zero byte ends a flag's name, but not the name of a removed protobuf field.
    wanted = {b"\0" + option.encode() + b"\0", *values.encode().split(b",")}
    (folder,) = map(pathlib.Path, importlib.util.find_spec("jaxlib").submodule_search_locations)
    for path in (*folder.glob("*.so"), *folder.glob("*.dylib")):
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            wanted = {name for name in wanted if content.find(name) < 0}
    return not wanted


def prepare() -> None:
    """Sets options that are not set yet. They do not affect what JAX has already compiled.

    - JAX keeps compiled programs in $JAX_COMPILATION_CACHE_DIR, so that a second start does not
      compile again. The default is a folder in `cache_dir()` named after this machine, because a
      program for one CPU may hold instructions that another lacks.
    - XLA compiles everything with `compiler_options()`.
    """
    environment = os.environ
    compiled = cache_dir() / "compiled" / platform.node()
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(compiled))
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    if "jax" in sys.modules:
        import jax

        # It has read these variables already.
        jax.config.update("jax_compilation_cache_dir", environment["JAX_COMPILATION_CACHE_DIR"])
        jax.config.update(
            "jax_persistent_cache_min_compile_time_secs",
            float(environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]),
        )
    flags = environment.get("XLA_FLAGS", "")
    for option, value in compiler_options().items():
        if option not in flags:
            environment["XLA_FLAGS"] = f"{flags} --{option}={value}".strip()
