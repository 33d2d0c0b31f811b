"""Fixtures that several test files share."""

import gc
import os
import pathlib
import subprocess
import sys
import tempfile

import jax
import jaxtyping
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import tests.shapes  # noqa: F401  the hook below calls it by its name
from se_flax.runtime.compiler import _is_in_jaxlib

# Not runtime/: it has no shapes, and the checker cannot read its `Self`.
_CHECKED = ("analysis", "data", "detection", "label_metrics", "layers", "losses", "metrics")
_CHECKED += ("models", "parallel", "rng", "state", "step")
jaxtyping.install_import_hook([f"se_flax.{name}" for name in _CHECKED], "tests.shapes.checked")

from se_flax.data import Dataset, Split  # noqa: E402
from tests import tiny_run  # noqa: E402
from tests.forking import Commands  # noqa: E402

# Commands do not start again with huge pages, which make tests no faster.
os.environ.setdefault("GLIBC_TUNABLES", "")
# A cache shared with all child processes, xdist's workers included, so that each program is
# compiled once.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="se_flax_tests_")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["XDG_CACHE_HOME"] = _CACHE.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    # Most of a test's time goes into compiling programs that run for only a moment. XLA takes
    # half as long without its newer way of writing code for fused operations.
    if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1" and _is_in_jaxlib(
        "xla_cpu_use_fusion_emitters", ""
    ):
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false".strip()
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1":
    jax.config.update("jax_disable_most_optimizations", True)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)

ROOT = pathlib.Path(__file__).resolve().parent.parent


# The slowest files that are collected late. A worker that began one at the end would be alone.
FIRST = (
    "test_resume",
    "test_train",
    "test_without_data",
    "test_studies",
    "test_step",
    "test_seeds",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the slowest files first."""
    items.sort(key=lambda item: item.path.stem not in FIRST)


def pytest_collection_finish() -> None:
    """Spares the garbage collector what lives until the end, and most of its searches.

    Tracing makes and keeps many objects. Searching through them took a third of its time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


@pytest.fixture(scope="session")
def stripes() -> Dataset:
    """100 training and 37 test images of 8x8: red or blue stripes, across or upright."""
    generator = np.random.default_rng(0)

    def split(n):
        labels = np.arange(n) % 4
        images = generator.integers(0, 100, (n, 8, 8, 3))
        for image, label in zip(images, labels, strict=True):
            stripes = image[::2] if label % 2 else image[:, ::2]
            stripes[..., 2 * (label // 2)] += 150
        return Split(images.astype(np.uint8), labels)

    return Dataset(
        name="stripes",
        train=split(100),
        test=split(37),
        class_names=("red upright", "red across", "blue upright", "blue across"),
        mean=(0.3, 0.2, 0.3),
        std=(0.2, 0.1, 0.2),
        horizontal_flip=True,
    )


@pytest.fixture(scope="session")
def image_dir(tmp_path_factory) -> pathlib.Path:
    """JPEGs of several sizes in train/<class>/ (45) and val/<class>/ (13), of three colours."""
    folder = tmp_path_factory.mktemp("image_dir")
    generator = np.random.default_rng(0)
    for split, count in (("train", 45), ("val", 13)):
        for i in range(count):
            name = ("blue", "green", "red")[i % 3]
            shape = (*generator.integers(20, 40, 2), 3)
            image = generator.integers(0, 60, shape, np.uint8)
            image[..., 2 - i % 3] += 150
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / split / name / f"{i:02d}.jpg")
    return folder


@pytest.fixture(scope="session")
def tfds_dir(tmp_path_factory) -> str:
    """A TFDS folder in which the first images of each split are noise, and prepared."""
    import tensorflow_datasets as tfds

    data_dir = tmp_path_factory.mktemp("tensorflow_datasets")
    for name, classes in (("cifar10", 10), ("cifar100", 100), ("svhn_cropped", 10)):
        generator = np.random.default_rng(classes)
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")

        def examples(size, name=name, classes=classes, generator=generator, builder=builder):
            for index in range(size):
                example = {"image": generator.integers(0, 256, (32, 32, 3), np.uint8)}
                example["label"] = index % classes
                if name == "cifar100":
                    example["coarse_label"] = 0
                if "id" in builder.info.features:
                    example["id"] = str(index)
                yield index, example

        builder._split_generators = lambda *args, examples=examples, **kwargs: {
            "train": examples(200),
            "test": examples(110),
        }
        builder.download_and_prepare()
    return str(data_dir)


@pytest.fixture
def tiny_config() -> ConfigDict:
    """A config for `stripes`: 6 epochs of 6 steps, a few seconds in total."""
    config = tiny_run.get_config()
    config.batch_size = 16
    config.log_every_steps = 4
    return config


@pytest.fixture(scope="session")
def server():
    """A server of Google Cloud Storage, which libraries in this process use for gs://."""
    pytest.importorskip("gcp_storage_emulator")
    from tests.bucket import Bucket

    server = Bucket()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server
    server.stop()


@pytest.fixture
def bucket(server, request):
    """An empty folder in a bucket; `server` can be told to fail."""
    from se_flax.runtime.paths import to_path

    yield to_path(f"gs://bucket/{abs(hash(request.node.nodeid))}")
    server.unavailable = server.lost = server.delay = 0.0


@pytest.fixture
def wrong_types():
    """Lets a test pass a function a value of a wrong type, to check that it is refused."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def run_python():
    """Runs `python ARGUMENTS` in the repository's root; returns the finished process."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )

    return run


@pytest.fixture(scope="session")
def run_command(tmp_path_factory):
    """Runs `python -m MODULE ARGUMENTS` as `run_python` does, without importing libraries anew."""
    commands = Commands(tmp_path_factory.mktemp("commands"))
    yield commands.run
    commands.close()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> pathlib.Path:
    """The workdir of an undisturbed run of `tests.runs`."""
    from tests.runs import finish  # imports much that most tests do not need

    workdir = tmp_path_factory.mktemp("undisturbed")
    finish(workdir)
    return workdir
