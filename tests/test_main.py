import json

import pytest

from se_flax.main import default_workdir


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("configs/quickstart.py", "runs/quickstart"),
        ("configs/se_resnet_cifar100.py:56", "runs/se_resnet_cifar100_56"),
    ],
)
def test_results_go_to_a_folder_named_like_the_config(config, expected):
    assert str(default_workdir(config)) == expected


@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        (["--config.num_epoch=3"], {}, 'no config field "num_epoch" (did you mean "num_epochs"?)'),
        (["--config.optimizer.learning_rte=3"], {}, '(did you mean "learning_rate"?)'),
        (["--config.learning_rate=3"], {}, '(did you mean "optimizer.learning_rate"?)'),
        (["--config.lr=3"], {}, '(did you mean "optimizer.learning_rate"?)'),
        (["--config.optimizer.lr=3"], {}, '(did you mean "learning_rate"?)'),
        (["--config.model.depth=3"], {}, "the fields of config.model are name, overrides"),
        (["--config.foo.bar=3"], {}, "config has the sections model, dataset, augment,"),
        (["--config.model.overrides.reductn=3"], {}, '"reduction"'),
        (["--config.model.overrides.dtype=float16"], {}, "cannot be set; config.dtype decides it"),
        (["--config.num_epochs=many"], {}, "--config.num_epochs=many must be a whole number"),
        (["--config.optimizer.momentum=big"], {}, "momentum=big must be a number"),
        (["--config.freeze_backbone=so"], {}, "freeze_backbone=so must be true or false"),
        (["--config.model.name=se_resnet20"], {}, '"se_resnet20_cifar"'),
        (["--config.dataset.name=digit"], {}, '"digits"'),
        (["--config.dtype=float16"], {}, "bfloat16"),
        (["--config.seed=4294967296"], {}, "from 0 to 4294967295"),
        (["--config.model.overrides.stage_sizes=(1,1,1)"], {}, "config.model.overrides"),
        (["--wrokdir=x"], {}, 'there is no option --wrokdir (did you mean "--workdir"?)'),
        (["runs/x"], {}, 'unknown argument "runs/x"'),
        (["--num_processes=2"], {}, "--coordinator_address and --process_id missing"),
        (["--num_processes=2", "--nodistributed"], {}, "--nodistributed cannot be combined with"),
        (
            ["--config.batch_size=100"],
            {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
            "multiple of 8, such as 96",
        ),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, list) else "",
)
def test_bad_input_is_reported_in_one_line(run_command, tmp_path, arguments, environment, expected):
    workdir = tmp_path / "run"
    process = run_command(
        *("se_flax.main", "--config=tests/tiny_run.py", f"--workdir={workdir}"),
        *arguments,
        **environment,
    )
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: ")
    assert expected in line
    assert not workdir.exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--config=FILE is missing"),
        (["--config=configs/quikstart.py"], '(did you mean "configs/quickstart.py"?)'),
        (["--config=configs/resnet_cifar10.py:21"], ':21: there is no CIFAR ResNet of depth "21"'),
        (
            ["--config=configs/quickstart.py:21"],
            'configs/quickstart.py: this config takes no argument; remove ":21"',
        ),
        (["--config=README.md"], "(README.md, line"),
        (["--config=experiments/variants.py"], "no attribute 'get_config'"),
        (["--config=tests/tiny_run.py", "--workdir=README.md"], "README.md"),
    ],
)
def test_an_unreadable_config_is_reported_in_one_line(run_command, arguments, expected):
    process = run_command("se_flax.main", *arguments)
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert expected in line


def test_a_run_and_its_evaluation_from_the_command_line(run_python, tmp_path):
    options = ["--config=tests/tiny_run.py", f"--workdir={tmp_path}", "--config.num_epochs=3"]
    process = run_python("-m", "se_flax.main", *options)
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert "epoch 1/3" in process.stdout
    assert "images/s" in process.stdout
    *_, evaluate, predict, confusion, tensorboard = process.stdout.splitlines()
    assert evaluate == f"next: python -m se_flax.evaluate --workdir={tmp_path}"
    of_run = f"--workdir={tmp_path}"
    assert predict.split() == ["python", "-m", "se_flax.predict", of_run, "PHOTOGRAPH"]
    assert confusion.split() == ["python", "-m", "se_flax.analysis.confusion", of_run]
    assert tensorboard.split() == ["tensorboard", f"--logdir={tmp_path}"]

    process = run_python("-m", "se_flax.evaluate", f"--workdir={tmp_path}", "--step=latest")
    assert process.stderr == ""
    line, as_json = process.stdout.splitlines()
    result = json.loads(as_json)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {key: result[key] for key in summary["final"]} == pytest.approx(summary["final"])
    assert f"top-1 {result['top1']:.2f}%" in line
    assert result["images"] == 360

    process = run_python("-m", "se_flax.evaluate", f"--workdir={tmp_path / 'nothing'}")
    assert process.returncode == 2
    assert "not the workdir of a run" in process.stderr


def test_the_module_of_training_names_the_command(run_command):
    process = run_command("se_flax.train", "--config=quickstart")
    assert process.returncode == 2
    assert process.stderr == "error: this is no command; python -m se_flax train is\n"


def test_a_run_that_diverges_has_its_own_exit_status(run_command, tmp_path):
    options = ["--config=tests/tiny_run.py", f"--workdir={tmp_path}"]
    process = run_command("se_flax.main", *options, "--config.optimizer.learning_rate=1e30")
    assert process.returncode == 3
    (line,) = process.stderr.splitlines()
    assert line.startswith("error: training has diverged at step 2: loss nan, gradient norm nan")


def overrides_of(run_python, *arguments):
    """Returns the overrides of a config with these arguments, or the last line of the error."""
    program = """
import sys
from absl import flags
from se_flax.main import define_flags
define_flags()
try:
    flags.FLAGS(sys.argv)
    print(flags.FLAGS.config.model.overrides.to_dict())
except (flags.Error, ValueError) as error:
    print(error)
"""
    options = ["--config=tests/tiny_run.py", *arguments]
    return run_python("-c", program, *options).stdout.splitlines()[-1]


def test_fields_of_a_network_that_the_config_file_does_not_set_are_accepted(run_python):
    options = ["auxiliary=False", "dropout=0.25", "se=bump", "width=3", "gate=tanh"]
    options = [f"--config.model.overrides.{option}" for option in options]
    shown = overrides_of(run_python, "--config.model.name=inception_v3", *options)
    assert "'auxiliary': False, 'dropout': 0.25" in shown
    assert "'gate': 'tanh'" in shown
    assert "'se': 'bump'" in shown
    assert "'width': 3" in shown
    options = ["--config.model.overrides.se_stages=(1,)", "--noconfig.model.overrides.zero_init"]
    shown = overrides_of(run_python, *options)
    assert "'se_stages': (1,)" in shown
    assert "'zero_init': False" in shown


def test_an_override_has_the_type_of_the_networks_field(run_python):
    for option, words in (
        ("dropout=much", "could not convert string to float: 'much'"),
        ("zero_init=perhaps", "Non-boolean argument"),
        ("unit=BasicUnit", '"unit" of the model "se_resnet20_cifar" is not a plain value'),
        ("zero_inti=True", 'has no field "zero_inti" (did you mean "zero_init"?)'),
    ):
        assert words in overrides_of(run_python, f"--config.model.overrides.{option}")
