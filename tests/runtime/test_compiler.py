import os
import pathlib

import pytest

from se_flax.runtime import compiler


@pytest.fixture
def environment(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "environ", {"XDG_CACHE_HOME": str(tmp_path)})
    monkeypatch.setattr(compiler.sys, "modules", {})
    return os.environ


def test_a_command_keeps_what_it_compiles_and_sets_options_for_cpus(environment, tmp_path):
    compiler.prepare()
    compiled = pathlib.Path(environment["JAX_COMPILATION_CACHE_DIR"])
    assert compiled.is_relative_to(tmp_path / "se_flax" / "compiled")
    for option, value in compiler.compiler_options().items():
        assert f"--{option}={value}" in environment["XLA_FLAGS"].split()


def test_existing_settings_are_kept(environment):
    options = [f"--{option}=" for option in compiler.compiler_options()]
    given = {"JAX_COMPILATION_CACHE_DIR": "/elsewhere", "XLA_FLAGS": " ".join(["--a=1", *options])}
    environment.update(given)
    compiler.prepare()
    assert {name: environment[name] for name in given} == given


def test_an_option_is_not_given_to_a_jaxlib_that_may_not_know_it(environment, monkeypatch):
    monkeypatch.setattr(compiler.importlib.metadata, "version", lambda package: "0.99.0")
    compiler.prepare()
    assert compiler.compiler_options() == {}
    assert not environment.get("XLA_FLAGS")


def test_no_option_is_given_that_the_installed_jaxlib_lacks(environment, monkeypatch):
    monkeypatch.setattr(compiler.importlib.metadata, "version", lambda package: "0.10.99")
    assert compiler.compiler_options()
    for attribute in ("_CPU_OPTION", "_FUSIONS"):
        with monkeypatch.context() as patch:
            patch.setattr(compiler, attribute, getattr(compiler, attribute) + "_OF_LATER")
            assert compiler.compiler_options() == {}
            compiler.prepare()
            assert not environment.get("XLA_FLAGS")


def test_a_second_start_compiles_nothing(run_python, tmp_path):
    program = """
import sys
from se_flax.runtime import compiler
compiler.prepare()
import jax, jax.numpy as jnp
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x))(jnp.ones((8, 8)))
print(any("cache_hits" in event for event in hits))
"""
    environment = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "compiled")}
    answers = [run_python("-c", program, **environment).stdout.strip() for _ in range(2)]
    assert answers == ["False", "True"]
