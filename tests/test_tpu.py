import dataclasses
import importlib.util
import json

import pytest

from experiments.tpu import __main__ as command
from experiments.tpu import chips, page, programs
from experiments.tpu.compile import refusal
from experiments.tpu.traffic import hbm_bytes
from se_flax import create_model
from se_flax.burden import burden
from se_flax.errors import UserError

HAS_COMPILER = importlib.util.find_spec("libtpu") is not None
VERSIONS = dict.fromkeys(("jax", "jaxlib", "libtpu", "flax"), "1")


def program(network="se_resnet50", topology="v5e:2x4", what="training", implementation="se_flax"):
    return programs.Program(network, what, implementation, topology, 1024)


def row(network="se_resnet50", topology="v5e:2x4", flops=0.0, num_bytes=0.0, estimate=None):
    return {
        "network": network,
        "program": "training",
        "implementation": "se_flax",
        "topology": topology,
        "batch_size": 1024,
        "remat": False,
        "accumulate_steps": 1,
        "compiles": True,
        "steps": 1,
        "flops": flops,
        "bytes": num_bytes,
        "hbm_bytes": None,
        "estimate": estimate,
        "hbm": 2**30,
        "compile_seconds": 1.0,
        "revision": "0123456789abcdef",
    }


def test_the_time_is_the_compilers_estimate_if_it_has_one():
    assert page.seconds(row(flops=197e12, num_bytes=819e9, estimate=3.0)) == (3.0, "estimate")
    assert page.share_of_peak(row(flops=197e12, estimate=4.0)) == pytest.approx(0.25)


@pytest.mark.parametrize("estimate", [-1.0, 0.0, None, float("nan"), float("inf")])
def test_without_an_estimate_the_time_is_what_the_chip_needs_at_least(estimate):
    by_flops = row(flops=2 * 197e12, num_bytes=819e9, estimate=estimate)
    by_bytes = row(flops=197e12, num_bytes=4 * 819e9, estimate=estimate)
    assert page.seconds(by_flops) == (pytest.approx(2.0), "FLOPs")
    assert page.share_of_peak(by_flops) == pytest.approx(1.0)
    assert page.seconds(by_bytes) == (pytest.approx(4.0), "bytes")
    assert page.share_of_peak(by_bytes) == pytest.approx(0.25)


COMPILED = """HloModule jit_step

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0:T(128)} parameter(0)
  ROOT %huge = f32[4096]{0:T(128)} negate(%p)
}

ENTRY %main (a: f32[100], b: bf16[4,50]) -> (f32[100], pred[10]) {
  %a = f32[100]{0:T(128)} parameter(0)
  %b = bf16[4,50]{1,0:T(8,128)(2,1)} parameter(1)
  %start = (f32[100]{0:T(128)S(1)}, f32[100]{0:T(128)}, u32[]{:S(2)}) copy-start(%a)
  %done = f32[100]{0:T(128)S(1)} copy-done(%start)
  %part = ((bf16[4,50]{1,0}), bf16[1,50]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%b), slice={[0:1]}
  %sliced = bf16[1,50]{1,0:S(1)} slice-done(%part)
  %sum = (f32[100]{0:T(128)}, pred[10]{0:S(1)}) fusion(%done, %a), kind=kLoop, calls=%fused
  %first = f32[100]{0:T(128)} get-tuple-element(%sum), index=0
  %scaled = f32[100]{0:T(128)S(1)} multiply(%first, %done), control-predecessors={%b}
  %back = (f32[100]{0:T(128)}, f32[100]{0:T(128)S(1)}, u32[]{:S(2)}) copy-start(%scaled)
  ROOT %end = f32[100]{0:T(128)} copy-done(%back)
}
"""


def test_only_arrays_that_are_not_on_the_chip_count_as_bytes_in_hbm():
    copied, sliced, fused, multiplied, copied_back = 400, 100, 400 + 400, 400, 400
    assert hbm_bytes(COMPILED) == copied + sliced + fused + multiplied + copied_back


def test_a_chip_of_two_devices_does_the_work_of_both():
    one_device = row(topology="v3:2x2", flops=123e12 / 2, num_bytes=0, estimate=-1)
    assert chips.Topology.of("v3:2x2").devices == 8
    assert page.seconds(one_device) == (pytest.approx(1.0), "FLOPs")
    assert page.per_chip(one_device, "hbm") == 2 * 2**30


def test_the_cost_of_se_compares_times_of_the_same_kind():
    plain = row("resnet50", flops=1.0, num_bytes=819e9, estimate=2.0)
    with_se = row(flops=1.0, num_bytes=1.1 * 819e9, estimate=2.5)
    assert page.cost_of_se(with_se, plain) == pytest.approx((0.25, 0.1))
    with_se["estimate"] = -1.0
    assert page.cost_of_se(with_se, plain) == pytest.approx((0.1, 0.1))
    plain["estimate"] = -7.0
    assert page.cost_of_se(with_se, plain) == pytest.approx((0.1, 0.1))


def test_the_page_says_first_that_times_are_estimates_and_shows_what_does_not_compile():
    big = {**row("resnet152"), "compiles": False, "reason": "does not fit into HBM", "hbm": 2**35}
    rows = [row("resnet50", flops=197e9, num_bytes=819e6, estimate=2e-3), big]
    rows.append(row(flops=197e9, num_bytes=2 * 819e6, estimate=-1.0) | {"hbm_bytes": 819e6})
    text = page.page({"versions": VERSIONS, "rows": rows})
    first = text.splitlines()[0]
    assert "estimates, not measurements" in first
    assert "| resnet50 | se_flax | 128 | yes | 1.00 of 16 | 197.00 | 819.0 | - | 2.0000 |" in text
    assert "| resnet152 | se_flax | 128 | does not fit into HBM | 32.00 of 16 | - |" in text
    assert "| 1638.0 | 819.0 | 2.0000 | bytes | 50.0% | +100.0%, +100.0% |" in text


def test_published_batches_are_shared_by_the_chips():
    everything = programs.programs_of(
        programs.select(["*"]), programs.PROGRAMS, programs.IMPLEMENTATIONS, ["v5e:2x4"], 0
    )
    batch = {each.network: each.batch_size for each in everything}
    assert batch["se_resnet164_cifar"] == 128
    assert batch["se_resnext101_32x4d"] == 1024
    assert batch["senet154"] == batch["senet154_without_se"] == 2048
    assert batch["efficientnet_b7"] == 4096
    assert {batch[f"fasterrcnn_{se}resnet50_caffe_fpn"] for se in ("", "se_")} == {16}
    assert {each.network for each in everything if each.program == "dispatch"} == {
        f"{se}resnet{depth}_cifar" for depth in (20, 56, 110, 164) for se in ("", "se_")
    }
    assert program(implementation="stock Flax") in everything
    assert program("se_resnet152", implementation="stock Flax") not in everything
    (chosen,) = programs.programs_of(["senet154"], ["training"], ["se_flax"], ["v4:2x2x1"], 7)
    assert chosen.batch_size == 28


def test_every_network_with_se_blocks_has_its_plain_network():
    with_se = [name for name in programs.RUNS if programs.plain(name)]
    assert len(with_se) == len(programs.RUNS) / 2 == 19
    for name in with_se:
        plain = programs.RUNS[programs.plain(name)]()
        config = programs.RUNS[name]()
        assert (plain.batch_size, plain.num_epochs) == (config.batch_size, config.num_epochs)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: chips.Topology.of("v5:2x4"), 'there is no TPU "v5"'),
        (lambda: chips.Topology.of("v5e:8"), "v5e:2x4"),
        (lambda: programs.select(["resnet51"]), 'did you mean "resnet50"'),
    ],
)
def test_unknown_names_are_refused(wrong, said):
    with pytest.raises(UserError, match=said):
        wrong()


def test_the_memory_that_a_program_lacks_is_read_from_the_compilers_message():
    messages = (
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
        "hbm. Used 25.50G of 15.75G hbm. Exceeded hbm capacity by 9.75G.",
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (25.50G) exceeds available HBM (15.75G).",
    )
    for found in map(refusal, messages):
        assert found["reason"] == "does not fit into HBM"
        assert found["hbm"] == 25.5 * 2**30
        assert found["hbm_available"] == 15.75 * 2**30
    assert refusal("INTERNAL: Mosaic\nfailed") == {"reason": "INTERNAL: Mosaic failed"}


def test_an_interrupted_command_goes_on_with_what_is_missing(tmp_path):
    path = tmp_path / "tpu.json"
    wanted = [program("resnet50"), program(), program("resnet101"), program("se_resnet101")]
    compiled = []

    def compile_one(each):
        if len(compiled) == 2:
            raise KeyboardInterrupt
        compiled.append(each)
        return row(each.network, flops=len(compiled), num_bytes=1.0)

    with pytest.raises(KeyboardInterrupt):
        command.compile_each(wanted, command.earlier_results(path, VERSIONS), path, compile_one)
    results = command.earlier_results(path, VERSIONS)
    assert [programs.key(each) for each in results["rows"]] == wanted[:2]
    assert "| se_resnet50 |" in path.with_suffix(".md").read_text()

    assert command.missing(wanted, results) == wanted[2:]
    compiled = []
    command.compile_each(wanted[:3], results, path, compile_one)
    assert compiled == wanted[2:3]
    rows = json.loads(path.read_text())["rows"]
    assert [programs.key(each) for each in rows] == wanted[:3]

    compiled = []
    command.compile_each(wanted[:1], results, path, compile_one, again=True)
    assert compiled == wanted[:1]
    assert len(json.loads(path.read_text())["rows"]) == 3
    with pytest.raises(UserError, match="libtpu 1, and here is 2; give another --out"):
        command.earlier_results(path, {**VERSIONS, "libtpu": "2"})


def test_a_training_program_that_does_not_fit_is_followed_by_what_saves_memory(tmp_path):
    def compile_one(each):
        made = row(flops=1.0)
        if not each.remat and each.accumulate_steps < 8:
            made |= {"compiles": False, "reason": programs.TOO_LARGE}
            made |= {"hbm": 48 * 2**30 // each.accumulate_steps, "hbm_available": 15 * 2**30}
        return {name: made[name] for name in made if name not in dataclasses.asdict(each)}

    results = {"versions": VERSIONS, "rows": []}
    for what in ("training", "inference"):
        command.compile_each([program(what=what)], results, tmp_path / "tpu.json", compile_one)
    assert [programs.key(each).form for each in results["rows"]] == [
        "se_flax",
        "se_flax, remat",
        "se_flax, accumulate_steps=4",
        "se_flax, accumulate_steps=8",
        "se_flax",
    ]


def test_a_crash_of_the_compiler_is_a_row():
    row = command.compile_apart(program("no such network"), seconds=300)
    assert not row["compiles"]
    assert row["reason"] == "the compiler crashed (exit status 1): KeyError: 'no such network'"
    assert "SIGABRT): F1126 Check failed" in command.crash(-6, "E\nF1126 Check failed\n@ 0x1\n")
    assert "too little memory" in command.crash(-9, "")


def test_a_compilation_that_takes_too_long_is_a_row():
    assert command.compile_apart(program(), seconds=0.1)["reason"].startswith("not compiled in")


@pytest.mark.skipif(HAS_COMPILER, reason="libtpu is installed")
def test_without_the_compiler_a_sentence_says_what_to_install(run_python, tmp_path):
    done = run_python("-m", "experiments.tpu", f"--out={tmp_path / 'out'}")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "pip install -r requirements-tpu.txt" in line
    assert not (tmp_path / "out").exists()


def test_the_list_needs_no_compiler(run_python, tmp_path):
    options = ("--list", "--networks=resnet50", "--programs=inference", f"--out={tmp_path}")
    done = run_python("-m", "experiments.tpu", *options)
    assert done.stdout.splitlines() == [
        "missing  resnet50, inference, se_flax, batch 1024, v5e:2x4",
        "missing  resnet50, inference, stock Flax, batch 1024, v5e:2x4",
        "missing  resnet50, inference, se_flax, batch 1024, v5e:4x8",
        "missing  resnet50, inference, stock Flax, batch 1024, v5e:4x8",
    ]


@pytest.mark.slow
@pytest.mark.skipif(not HAS_COMPILER, reason="needs the TPU compiler (requirements-tpu.txt)")
@pytest.mark.parametrize("what", programs.PROGRAMS)
def test_a_tiny_network_compiles_for_a_tpu(run_python, what):
    code = f"""
import json
from experiments.tpu.compile import compiled
from experiments.tpu.programs import RUNS, Program
config = RUNS["se_resnet20_cifar"]()
config.model.overrides.stage_sizes = (1, 1, 1)
program = Program("se_resnet20_cifar", {what!r}, "se_flax", "v5e:2x4", 256)
print(json.dumps(compiled(program, config)))
"""
    variables = chips.Topology.of("v5e:2x4").environment | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
    done = run_python("-c", code, **variables)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["compiles"], found
    assert 0 < found["hbm"] < 16 * 2**30
    model = create_model("se_resnet20_cifar", 10, stage_sizes=(1, 1, 1))
    multiply_adds = burden(model, 32).multiply_adds
    passes = 1 if what == "inference" else 3
    assert found["flops"] == pytest.approx(2 * passes * 32 * multiply_adds, rel=0.2)
