"""Runs of several processes: how they find each other, and what the first sends the others.

Only the first process reads and writes the workdir. It sends the others what they need to know.
"""

import importlib.util
import itertools
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from se_flax.errors import UserError

# Seconds without a heartbeat after which a process counts as dead, and the others exit.
HEARTBEAT_SECONDS = 30


def join(
    coordinator_address: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Connects this process with the others of its run; does nothing for a run of one process.

    Without arguments, the environment that Slurm, Open MPI or Cloud TPU sets says whether there
    are other processes. Open MPI from version 5 on does not say where process 0 is, and needs
    `coordinator_address`.

    Args:
        coordinator_address: HOST:PORT of process 0, which listens there.
        num_processes: the number of processes in the run.
        process_id: the number of this process, from 0.

    Raises:
        UserError: if some of the arguments are missing or unusable, or the other processes do not
            answer.
    """
    local_device_ids = None
    address_alone = coordinator_address is not None and num_processes is None and process_id is None
    if address_alone and scheduler() == "Open MPI":
        num_processes = int(os.environ["OMPI_COMM_WORLD_SIZE"])
        process_id = int(os.environ["OMPI_COMM_WORLD_RANK"])
        # One process per device, as JAX assumes where it detects Open MPI itself.
        local_device_ids = [int(os.environ["OMPI_COMM_WORLD_LOCAL_RANK"])]
    if (coordinator_address, num_processes, process_id) != (None, None, None):
        _check_given(coordinator_address, num_processes, process_id)
    elif scheduler() is None:
        return
    try:
        jax.distributed.initialize(
            coordinator_address,
            num_processes,
            process_id,
            local_device_ids,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes of this run cannot be connected: {error}; give "
            "--coordinator_address=HOST:PORT of process 0"
        ) from error


def _check_given(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Raises `UserError` unless the arguments describe one of several processes."""
    if coordinator_address is None or num_processes is None or process_id is None:
        given = {
            "--coordinator_address": coordinator_address,
            "--num_processes": num_processes,
            "--process_id": process_id,
        }
        missing = [name for name, value in given.items() if value is None]
        raise UserError(
            f"{' and '.join(missing)} missing: a run of several processes needs {', '.join(given)}"
        )
    host, _, port = coordinator_address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UserError(f'--coordinator_address must be HOST:PORT, not "{coordinator_address}"')
    if not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id must be from 0 to {num_processes - 1}, not {process_id}: "
            f"--num_processes is {num_processes}"
        )


def scheduler() -> str | None:
    """Returns what may have started this process as one of several.

    That is "Slurm", "Open MPI", "Cloud TPU" (on its VMs even if there is only one process), or
    None if nothing did.
    """
    environment = os.environ
    if _above_one(environment.get("SLURM_STEP_NUM_TASKS")):
        return "Slurm"
    if _above_one(environment.get("OMPI_COMM_WORLD_SIZE")):
        return "Open MPI"
    devices = pathlib.Path("/dev")
    has_tpu = any(devices.glob("accel*")) or any(devices.glob("vfio/[0-9]*"))
    if has_tpu and importlib.util.find_spec("libtpu"):
        return "Cloud TPU"
    return None


def _above_one(value: str | None) -> bool:
    return value is not None and value.isdigit() and int(value) > 1


def is_first() -> bool:
    """Whether this is the process that reads and writes the workdir."""
    return jax.process_index() == 0


def from_first(function: Callable[[], Any]) -> Any:
    """Calls a function in the first process; returns its result in all processes.

    Args:
        function: returns values that JSON can hold.

    Raises:
        UserError: in all processes, if the function raised one.
    """
    if jax.process_count() == 1:
        return function()
    error, answer = None, {}
    if is_first():
        try:
            answer["value"] = function()
        except UserError as raised:
            error = raised
            answer["error"] = str(raised)
    text = json.dumps(answer).encode()
    size = int(_sent(np.array([len(text)]))[0])
    padded = np.zeros(-(-size // 4) * 4, np.uint8)
    if is_first():
        padded[:size] = np.frombuffer(text, np.uint8)
    answer = json.loads(_sent(padded.view(np.uint32)).view(np.uint8)[:size].tobytes())
    if error is not None:
        raise error
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["value"]


def on_all(function: Callable[[], Any]) -> Any:
    """Calls a function in every process; returns this process's result.

    Raises:
        UserError: in all processes, if the function raised one in any of them.
    """
    if jax.process_count() == 1:
        return function()
    error, result = None, None
    try:
        result = function()
    except UserError as raised:
        error = raised
    failed = multihost_utils.process_allgather(np.array(error is not None))
    if error is not None:
        raise error
    if any(failed):
        others = ", ".join(str(i) for i in np.flatnonzero(failed))
        raise UserError(f"process {others} of this run cannot start; its own message says why")
    return result


def arrays_from_first(
    arrays: Mapping[str, np.ndarray] | None, abstract: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, np.ndarray]:
    """Returns the arrays of the first process in all processes, bit for bit.

    Args:
        arrays: arrays by name; ignored in the other processes.
        abstract: their shapes and types.
    """
    mine = dict(arrays or {})
    if jax.process_count() == 1:
        return mine
    sizes = {name: like.size * like.dtype.itemsize for name, like in abstract.items()}
    ends = dict(zip(sizes, itertools.accumulate(sizes.values()), strict=True))
    everything = np.zeros(-(-sum(sizes.values()) // 4) * 4, np.uint8)
    if is_first():
        for name, end in ends.items():
            flat = np.ascontiguousarray(mine[name]).reshape(-1)
            everything[end - sizes[name] : end] = flat.view(np.uint8)
    # As integers, because JAX sends by summing, which turns -0.0 into 0.0.
    everything = _sent(everything.view(np.uint32)).view(np.uint8)
    return {
        name: everything[end - sizes[name] : end].view(like.dtype).reshape(like.shape)
        for (name, end), like in zip(ends.items(), abstract.values(), strict=True)
    }


def check_same(what: str, value: Any) -> None:
    """Raises `UserError` in all processes if a plain value differs between them."""
    if jax.process_count() == 1:
        return
    is_same = from_first(lambda: value) == json.loads(json.dumps(value))
    same = multihost_utils.process_allgather(np.array(is_same))
    if not all(same):
        others = ", ".join(str(i) for i in np.flatnonzero(np.logical_not(same)))
        raise UserError(
            f"process {others} has another {what} than process 0; start all processes with the "
            "same command and the same data set"
        )


def _sent(array: np.ndarray) -> np.ndarray:
    """Returns the first process's array in all processes."""
    return np.array(multihost_utils.broadcast_one_to_all(array))
