WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None  # makes every import of it fail
"""


def test_importing_the_package_loads_no_library_of_a_run(run_python):
    program = """
import sys
import se_flax
se_flax.create_model("se_resnet50")
of_a_run = {"cv2", "dm_pix", "optax", "orbax", "ml_collections", "PIL", "matplotlib", "sklearn"}
of_a_run |= {"clu", "grain", "tensorflow", "tensorflow_datasets", "tensorboard", "safetensors"}
print(sorted(of_a_run & {name.split(".")[0] for name in sys.modules}))
"""
    process = run_python("-c", program)
    assert process.stdout.strip() == "[]", process.stderr


def test_nnx_is_imported_when_it_is_first_used(run_python):
    program = """
import sys
import flax.linen
of_flax = "flax.nnx" in sys.modules
import se_flax
se_flax.create_model("se_resnet50")
print(("flax.nnx" in sys.modules) == of_flax, "se_flax.nnx" in sys.modules)
print(se_flax.nnx.create_model.__module__)
"""
    process = run_python("-c", program)
    assert process.stdout.split() == ["True", "False", "se_flax.nnx"], process.stderr


def test_models_and_steps_need_only_jax_and_flax(run_python):
    program = """
import sys
import se_flax
from se_flax import models, state, step
se_flax.create_model("se_resnet50")
heavy = {"tensorflow", "tensorflow_datasets", "orbax", "matplotlib", "sklearn", "clu"}
print(sorted(heavy & {name.split(".")[0] for name in sys.modules}))
"""
    process = run_python("-c", program)
    assert process.stdout.strip() == "[]", process.stderr


def test_training_and_evaluation_work_without_tensorflow(run_python, tmp_path):
    program = f"""
import numpy as np
from se_flax.data import Dataset, Split
from se_flax.evaluate import evaluate_workdir
from se_flax.train import train
from tests import tiny_run

images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3)).astype(np.uint8)
split = Split(images, np.arange(64) % 4)
dataset = Dataset("noise", split, split, tuple("abcd"), (0.5,) * 3, (0.3,) * 3, True)
config = tiny_run.get_config()
config.batch_size, config.num_epochs = 16, 2
summary = train(config, {str(tmp_path)!r}, dataset)
result = evaluate_workdir({str(tmp_path)!r}, "latest", dataset=dataset)
assert abs(result["loss"] - summary["final"]["loss"]) < 1e-5
print("steps", summary["steps"])
"""
    process = run_python("-c", WITHOUT_TENSORFLOW + program)
    assert process.stdout.splitlines()[-1] == "steps 8", process.stderr
    assert (tmp_path / "metrics.jsonl").exists()
    assert list(tmp_path.glob("events.out.tfevents.*"))
