"""What a command sets up in its process before JAX starts: a cache, and options for CPUs."""

import importlib.metadata
import os
import pathlib
import platform
import sys

# Without these two of XLA's libraries for CPUs, convolutions and small matrix products go to
# Eigen, which is faster over those of networks for small images (by a fifth for a training step
# of SE-ResNet-20). XLA ends the process over options that it does not know.
_FUSIONS = "LIBRARY_FUSION_TYPE_DOT,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
_CPU_OPTION = "xla_cpu_experimental_ynn_fusion_type"
_JAXLIBS_WITH_IT = ("0.10.", "0.11.")


def cache_dir() -> pathlib.Path:
    """Returns where to keep what can be made again: se_flax in $XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(base).expanduser() / "se_flax"


def compiler_options() -> dict[str, str]:
    """Returns XLA's options for CPUs that pay, for `jax.jit(f, compiler_options=...)`."""
    known = importlib.metadata.version("jaxlib").startswith(_JAXLIBS_WITH_IT)
    return {_CPU_OPTION: _FUSIONS} if known else {}


def prepare() -> None:
    """Sets what is not set yet; has no effect on what JAX has already compiled.

    - Compiled programs are kept in $JAX_COMPILATION_CACHE_DIR, by default a folder of this
      machine in `cache_dir()`, so that a second start need not compile again. Of this machine,
      because a program for one CPU may hold instructions that another lacks.
    - XLA takes `compiler_options()` for all that it compiles.
    """
    environment = os.environ
    compiled = cache_dir() / "compiled" / platform.node()
    environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(compiled))
    environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    if "jax" in sys.modules:
        import jax

        # Which has read them already.
        jax.config.update("jax_compilation_cache_dir", environment["JAX_COMPILATION_CACHE_DIR"])
        jax.config.update(
            "jax_persistent_cache_min_compile_time_secs",
            float(environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]),
        )
    flags = environment.get("XLA_FLAGS", "")
    for option, value in compiler_options().items():
        if option not in flags:
            environment["XLA_FLAGS"] = f"{flags} --{option}={value}".strip()
