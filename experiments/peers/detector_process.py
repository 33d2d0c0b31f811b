"""One detector in a process of its own, which is timed when told to.

python -m experiments.peers.detector_process CASE

The argument is a `Case` as JSON. The first line of the output says how long it took until the first
run was done, and how much memory a run takes. Then each line of the input is a number of seconds,
for which it is run at least; the answer is the time of a run.
"""

import contextlib
import ctypes
import dataclasses
import gc
import json
import pathlib
import re
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

NUM_CLASSES = 91
BOXES = 10  # true boxes of an image


@dataclasses.dataclass(frozen=True)
class Case:
    """What is timed.

    Attributes:
        implementation: a name in `IMPLEMENTATIONS`.
        network: name of the trunk.
        mode: "training" or "inference".
        batch_size: images in a batch.
        height, width: of the images, pixels.
    """

    implementation: str
    network: str
    mode: str
    batch_size: int
    height: int
    width: int


def images_and_boxes(case: Case) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns random images [n, h, w, 3], boxes [n, g, 4] and labels [n, g], from 1.

    The values of the images are from 0 to 255.
    """
    generator = np.random.default_rng(0)
    size = np.array([case.width, case.height], np.float32)
    shape = (case.batch_size, BOXES)
    images = generator.integers(0, 256, (case.batch_size, case.height, case.width, 3), np.uint8)
    corners = generator.uniform(0, 0.6, (*shape, 2)) * size
    sides = generator.uniform(0.05, 0.4, (*shape, 2)) * size
    boxes = np.concatenate([corners, corners + sides], axis=-1)
    labels = generator.integers(1, NUM_CLASSES, shape)
    return images, boxes.astype(np.float32), labels.astype(np.int32)


def se_flax_work(case: Case) -> Callable[[], Any]:
    """Returns a training step of ours, or inference."""
    import jax
    import optax

    from se_flax.config import default_config
    from se_flax.detection.batches import HostBatch
    from se_flax.detection.from_config import no_images
    from se_flax.optim import Hyperparameters
    from se_flax.parallel import pmap_eval, pmap_train, replicate, share_out
    from se_flax.program import task_of
    from se_flax.task import functions_of

    jax.config.update("jax_enable_compilation_cache", False)
    images, boxes, labels = images_and_boxes(case)
    n = case.batch_size
    own = HostBatch(
        images=images,
        sizes=np.float32([[case.height, case.width]] * n),
        boxes=boxes,
        labels=labels,
        valid=np.ones_like(labels, bool),
        places=np.arange(n),
        mask=np.ones(n, bool),
    )
    own = share_out(own.by_device())
    config = default_config()
    config.model.name = f"fasterrcnn_{case.network}_fpn"
    config.model.overrides.zero_init = True
    names = [str(number) for number in range(1, NUM_CLASSES)]
    task = task_of(no_images(config, {"class_names": names}))
    init, step, evaluate = functions_of(task, config, optax.constant_schedule(1e-4))
    state = replicate(init(np.uint32(0)))
    if case.mode == "inference":
        find = pmap_eval(evaluate)
        return lambda: jax.block_until_ready(find(state.variables, None, own))
    train = pmap_train(step)
    given = replicate(Hyperparameters(np.full(1000, 1e-4, np.float32), np.float32(1e-4)))

    def run():
        nonlocal state
        state, sums = jax.block_until_ready(train(state, (given, None), own, 1))
        assert sums.count > 0, "the loss is not finite"

    return run


def torchvision_work(case: Case) -> Callable[[], Any]:
    """Returns a training step of torchvision's detector, or inference."""
    import torch

    from experiments.peers import torchvision_detector

    torch.manual_seed(0)
    model = torchvision_detector.detector(case.network, NUM_CLASSES)
    model.to(memory_format=torch.channels_last)
    model.train(case.mode == "training")
    images, boxes, labels = map(torch.from_numpy, images_and_boxes(case))
    images = list(images.permute(0, 3, 1, 2) / 255)  # channels last in memory
    labels = labels.long()
    if case.mode == "inference":

        def infer():
            with torch.inference_mode():
                model(images)

        return infer
    parameters = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.SGD(parameters, 1e-4, 0.9, weight_decay=1e-4)

    def step():
        targets = [{"boxes": b, "labels": c} for b, c in zip(boxes, labels, strict=True)]
        optimizer.zero_grad(set_to_none=True)
        loss = sum(model(images, targets).values())
        assert torch.isfinite(loss), loss
        loss.backward()
        optimizer.step()

    return step


IMPLEMENTATIONS = {"se_flax": se_flax_work, "torchvision": torchvision_work}


def peak_memory(run: Callable[[], Any]) -> float | None:
    """Returns the largest resident memory of this process during a run, in MB; only on Linux."""
    reset = pathlib.Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # gives back what compiling took
    reset.write_text("5")  # resets the peak
    run()
    status = pathlib.Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1024


def main() -> None:
    """Prepares a case, and times it as often as told."""
    case = Case(**json.loads(sys.argv[1]))
    begun = time.perf_counter()
    run = IMPLEMENTATIONS[case.implementation](case)
    run()
    first_seconds = time.perf_counter() - begun
    said = {"first_seconds": first_seconds, "peak_mb": peak_memory(run)}
    print(json.dumps(said), flush=True)
    for line in sys.stdin:
        run()  # the one before it leaves filled caches behind
        begun, times = time.perf_counter(), 0
        while times == 0 or time.perf_counter() - begun < float(line):
            run()
            times += 1
        print((time.perf_counter() - begun) / times, flush=True)


if __name__ == "__main__":
    main()
