"""Configs and command lines that cannot be used, made up by hypothesis."""

import json
import pathlib
import string
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from se_flax.config import FIELDS
from tests.runs import ROOT

pytestmark = pytest.mark.faults

CONFIG = "--config=tests/tiny_run.py"
COUNT = settings(
    max_examples=400, deadline=None, suppress_health_check=list(HealthCheck), database=None
)


@pytest.fixture(scope="module")
def command():
    """Runs the command with arguments; returns status, stdout and stderr."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.forks"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout.readline() == "ready\n"

    def run(arguments):
        server.stdin.write(json.dumps(arguments) + "\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline())

    yield run
    server.stdin.close()
    server.wait(60)


def assert_refused(command, arguments, names, workdir):
    """Asserts that arguments end in one sentence that has one of the names, and write nothing."""
    note(arguments)
    ended = command([*arguments, f"--workdir={workdir}"])
    note(ended)
    assert ended["status"] == 2
    (line,) = ended["stderr"].splitlines()
    assert line.startswith("error: ")
    assert len(line) < 700
    assert "Traceback" not in line + ended["stdout"]
    assert any(name in line for name in names)
    assert not pathlib.Path(workdir).exists()


below_0 = st.one_of(
    st.integers(max_value=-1), st.floats(max_value=-1e-30, allow_infinity=True, allow_nan=False)
)
no_finite = st.sampled_from(["nan", "inf", "-inf"])
words = st.text(string.ascii_letters + " _-.'\"(){}[]:;%\\", min_size=1, max_size=12).filter(
    lambda word: word.strip().lower() not in ("inf", "infinity", "nan", "true", "false", "t", "f")
)
INTEGERS = {
    **dict.fromkeys(("batch_size", "num_epochs", "log_every_steps", "eval_every_epochs"), 1),
    **dict.fromkeys(("eval_batch_size", "num_seeds", "augment.num_ops"), 1),
    **dict.fromkeys(("seed", "steps_per_dispatch", "dataset.image_size", "dataset.workers"), 0),
    **dict.fromkeys(("augment.crop_padding", "augment.cutout"), 0),
    "optimizer.base_batch_size": 0,
}
NUMBERS = ("optimizer.learning_rate", "optimizer.epsilon", "optimizer.weight_decay")
NUMBERS += ("optimizer.clip_norm", "augment.mixup", "augment.cutmix", "auxiliary_weight")
NUMBERS += ("augment.magnitude", "checkpoint_every_minutes", "schedule.decay_epochs")
NUMBERS += ("schedule.warmup_epochs",)
SHARES = ("optimizer.momentum", "schedule.warmup_factor", "schedule.gamma")
SHARES += ("augment.random_erasing", "schedule.decay_rate", "dataset.crop_pct", "ema_decay")
SHARES += ("optimizer.decay", "label_smoothing", "validation_fraction")
FLAGS = ("freeze_backbone", "sync_batch_norm", "dataset.skip_bad", "augment.horizontal_flip")
FLAGS += ("augment.random_resized_crop", "optimizer.nesterov", "optimizer.decay_norm_and_bias")
FLAGS += ("schedule.staircase",)
CHOICES = ("seed_mode", "dtype", "dataset.interpolation", "augment.policy", "optimizer.name")
CHOICES += ("schedule.name", "on_nonfinite", "model.name", "dataset.name")
TUPLES = ("augment.crop_area", "optimizer.lr_multipliers", "schedule.milestones")
OTHERS = ("init_from", "dataset.data_dir", "dataset.image_dir")


def test_every_field_is_given_bad_values():
    known = {*INTEGERS, *NUMBERS, *SHARES, *FLAGS, *CHOICES, *TUPLES, *OTHERS}
    assert known == FIELDS.keys() - {"model.overrides"}


bad_values = st.one_of(
    st.sampled_from(sorted(INTEGERS)).flatmap(
        lambda field: st.tuples(
            st.just(field),
            st.one_of(st.integers(max_value=INTEGERS[field] - 1), words, st.just("1.5"), no_finite),
        )
    ),
    st.tuples(st.sampled_from(("seed", "num_seeds")), st.integers(2**40, 2**200)),
    st.tuples(st.just("num_epochs"), st.integers(2**21, 2**200)),
    st.tuples(st.sampled_from(NUMBERS), st.one_of(below_0, no_finite, words)),
    st.tuples(
        st.sampled_from(SHARES),
        st.one_of(below_0, no_finite, words, st.floats(1.0000001, 1e300)),
    ),
    st.tuples(st.sampled_from(FLAGS), st.one_of(words, st.integers(2), st.just(""))),
    st.tuples(st.sampled_from(CHOICES), words),
    st.tuples(
        st.sampled_from(TUPLES), st.one_of(words, st.sampled_from(["(1,2,3)", "(-1,)", "(2,1)"]))
    ),
    st.tuples(st.sampled_from(("init_from", "dataset.image_dir")), words.map("/nowhere/{}".format)),
)


@COUNT
@given(bad_values)
def test_a_bad_value_is_refused_by_the_name_of_its_field(command, tmp_path_factory, bad):
    field, value = bad
    workdir = tmp_path_factory.getbasetemp() / "nothing"
    names = [field, field.rpartition(".")[2], str(value)]
    assert_refused(command, [CONFIG, f"--config.{field}={value}"], names, workdir)


misspelt = st.sampled_from(sorted(FIELDS.keys() - {"model.overrides"})).flatmap(
    lambda field: st.tuples(
        st.just(field), st.integers(0, len(field) - 1), st.sampled_from(string.ascii_lowercase)
    )
)


@COUNT
@given(misspelt, st.sampled_from(["insert", "replace", "remove"]))
def test_a_misspelt_field_is_refused(command, tmp_path_factory, mistake, kind):
    field, place, letter = mistake
    wrong = field[:place] + (letter if kind != "remove" else "")
    wrong += field[place:] if kind == "insert" else field[place + 1 :]
    parts = wrong.split(".")
    if any(known == wrong or known.startswith(f"{wrong}.") for known in FIELDS):
        return
    if not all(parts) or wrong.startswith("model.overrides"):
        return
    workdir = tmp_path_factory.getbasetemp() / "nothing"
    assert_refused(command, [CONFIG, f"--config.{wrong}=1"], parts, workdir)


overrides = st.one_of(
    st.tuples(
        st.sampled_from(["reduction", "num_stages", "widths", "stage_sizes", "se_placement"]),
        st.one_of(st.integers(max_value=0), words, st.sampled_from(["()", "(0,)", "(-1,1)"])),
    ),
    st.tuples(
        st.sampled_from(["variant", "gate", "squeeze", "se_stages", "zero_init", "num_classes"]),
        st.one_of(words, st.just("(7,)")),
    ),
    st.tuples(st.text(string.ascii_lowercase, min_size=1, max_size=8), st.integers()),
)


@COUNT
@given(overrides)
def test_a_bad_override_is_refused(command, tmp_path_factory, override):
    name, value = override
    workdir = tmp_path_factory.getbasetemp() / "nothing"
    flag = f"config.model.overrides.{name}"
    assert_refused(
        command, [CONFIG, f"--{flag}={value}"], [name, "config.model.overrides"], workdir
    )


ERRORS = ("ValueError('x is 3')", "RuntimeError('no')", "KeyError('k')", "ZeroDivisionError()")
ERRORS += (
    "ImportError('no module')",
    "Exception()",
    "AssertionError('a\\nb')",
    "OSError(2, 'gone')",
)
sources = st.one_of(
    st.text(max_size=80),
    st.sampled_from(ERRORS).map("def get_config():\n    raise {}\n".format),
    st.sampled_from(["None", "3", "{}", "[]", "'text'"]).map(
        "def get_config():\n    return {}\n".format
    ),
    st.sampled_from(sorted(FIELDS.keys() - {"model.name", "model.overrides"})).map(
        "from tests.tiny_run import get_config as tiny\ndef get_config():\n    config = tiny()\n"
        "    with config.unlocked():\n        del config.{}\n    return config\n".format
    ),
    st.just("def get_config(depth):\n    return None\n"),
    st.just("import no_such_module\n"),
)


@COUNT
@given(sources, st.sampled_from(["", ":", ":7", "::"]))
def test_a_config_file_that_makes_no_config_is_refused(command, tmp_path_factory, source, argument):
    path = tmp_path_factory.getbasetemp() / "some_config.py"
    path.write_bytes(source.encode(errors="replace"))
    workdir = tmp_path_factory.getbasetemp() / "nothing"
    names = ["some_config", "config"]
    assert_refused(command, [f"--config={path}{argument}"], names, workdir)


arguments = st.one_of(
    words.filter(lambda word: not word.startswith("-")).map(
        lambda word: ([word], ["unknown argument"])
    ),
    st.text(string.ascii_lowercase, min_size=3, max_size=12).map(
        lambda name: ([f"--no_{name}=1"], [name])  # none begins so
    ),
    st.sets(
        st.sampled_from(["--coordinator_address=host:1", "--num_processes=2", "--process_id=0"]),
        min_size=1,
        max_size=2,
    ).map(lambda given: (sorted(given), ["missing"])),
    st.sampled_from(["host", "host:", ":1", "host:port", "host:99999", ""]).map(
        lambda address: (
            [f"--coordinator_address={address}", "--num_processes=2", "--process_id=0"],
            ["--coordinator_address"],
        )
    ),
    st.integers(2, 9).map(
        lambda place: (
            ["--coordinator_address=host:1", "--num_processes=2", f"--process_id={place}"],
            ["--process_id"],
        )
    ),
    st.sampled_from(["0", "-1", "two", "1.5"]).map(
        lambda count: ([f"--num_processes={count}"], ["num_processes"])
    ),
)


@COUNT
@given(arguments)
def test_a_bad_command_line_is_refused(command, tmp_path_factory, argument):
    given_arguments, names = argument
    workdir = tmp_path_factory.getbasetemp() / "nothing"
    assert_refused(command, [CONFIG, *given_arguments], names, workdir)
