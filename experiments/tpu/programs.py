"""The programs that are compiled: published runs, and what each is on a topology."""

import dataclasses
import fnmatch
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from configs import (
    efficientnet_imagenet,
    faster_rcnn_coco,
    se_resnet_cifar10,
    se_resnet_imagenet,
    se_resnext_imagenet,
    senet154_imagenet,
)
from experiments.peers import stock_flax
from experiments.tpu.chips import Topology
from se_flax.data.sources import known_datasets
from se_flax.errors import UserError, nearest

TRAINING, DISPATCH, INFERENCE = PROGRAMS = ("training", "dispatch", "inference")
OURS, STOCK = IMPLEMENTATIONS = ("se_flax", "stock Flax")
TOO_LARGE = "does not fit into HBM"
WITHOUT_SE = "_without_se"
DETECTORS = ("fasterrcnn_resnet50_caffe_fpn", "fasterrcnn_se_resnet50_caffe_fpn")


@dataclasses.dataclass(frozen=True)
class Program:
    """A program to compile.

    Attributes:
        network: a name in `RUNS`.
        program: one of `PROGRAMS`.
        implementation: one of `IMPLEMENTATIONS`.
        topology: name of a topology.
        batch_size: images per step, over all chips.
        remat, accumulate_steps: the fields of the config with these names.
    """

    network: str
    program: str
    implementation: str
    topology: str
    batch_size: int
    remat: bool = False
    accumulate_steps: int = 1

    @property
    def words(self) -> str:
        """Says what it is."""
        place = f"batch {self.batch_size}, {self.topology}"
        return f"{self.network}, {self.program}, {self.form}, {place}"

    @property
    def form(self) -> str:
        """Says whose it is, and how it saves memory."""
        parts = f"accumulate_steps={self.accumulate_steps}" if self.accumulate_steps > 1 else ""
        return ", ".join(filter(None, (self.implementation, "remat" * self.remat, parts)))


def _without_se(get_config: Callable[[], ConfigDict]) -> ConfigDict:
    config = get_config()
    config.model.overrides.se = None
    return config


def _runs() -> Iterator[tuple[str, Callable[[], ConfigDict]]]:
    """Yields the published runs, each network before the same with SE blocks."""
    for get_config, name, depths in (
        (se_resnet_cifar10.get_config, "resnet{}_cifar", ("20", "56", "110", "164")),
        (se_resnet_imagenet.get_config, "resnet{}", ("50", "101", "152")),
        (se_resnext_imagenet.get_config, "resnext{}_32x4d", ("50", "101")),
    ):
        for depth in depths:
            for prefix in ("", "se_"):
                get = functools.partial(get_config, depth, se=bool(prefix))
                yield prefix + name.format(depth), get
    published_with_se = {"senet154": senet154_imagenet.get_config}
    for size in efficientnet_imagenet.NETWORKS:
        get = functools.partial(efficientnet_imagenet.get_config, size)
        published_with_se[f"efficientnet_{size}"] = get
    for name, get in published_with_se.items():
        yield name + WITHOUT_SE, functools.partial(_without_se, get)
        yield name, get
    for name in DETECTORS:
        trunk = name.removeprefix("fasterrcnn_").removesuffix("_caffe_fpn")
        yield name, functools.partial(faster_rcnn_coco.get_config, trunk)


RUNS = dict(_runs())
STOCK_NETWORKS = {
    **stock_flax.NETWORKS,
    f"efficientnet_b0{WITHOUT_SE}": functools.partial(stock_flax.EfficientNetB0, False),
}


def plain(network: str) -> str | None:
    """Returns the name of the same network without SE blocks; None if it has none itself."""
    name = f"_{network}".replace("_se_", "_")[1:]
    if name == network:
        name += WITHOUT_SE
    return name if name in RUNS else None


def select(patterns: Sequence[str]) -> list[str]:
    """Returns the networks that match any of some shell patterns.

    Raises:
        UserError: if a pattern matches none.
    """
    for pattern in patterns:
        if not fnmatch.filter(RUNS, pattern):
            raise UserError(
                f'--networks: there is no "{pattern}"{nearest(pattern, RUNS)}; known are '
                f"{', '.join(RUNS)}"
            )
    return [name for name in RUNS if any(fnmatch.fnmatch(name, each) for each in patterns)]


def programs_of(
    networks: Sequence[str],
    programs: Sequence[str],
    implementations: Sequence[str],
    topologies: Sequence[str],
    images_per_chip: int,
) -> list[Program]:
    """Returns the programs to compile, a network's one after another.

    Args:
        networks, programs, implementations, topologies: names to choose from. The program
            "dispatch" exists for images that are held on the devices, and stock Flax has neither
            it nor all networks.
        images_per_chip: share of the batch that a chip gets; 0 for the published batch.
    """
    wanted: list[Program] = []
    for network in networks:
        config = RUNS[network]()
        for topology in topologies:
            batch_size = images_per_chip * Topology.of(topology).chips or config.batch_size
            for program in programs:
                for implementation in implementations:
                    stock = implementation == STOCK
                    if stock and (program == DISPATCH or network not in STOCK_NETWORKS):
                        continue
                    if program == DISPATCH and config.dataset.name not in known_datasets():
                        continue
                    wanted.append(Program(network, program, implementation, topology, batch_size))
    return wanted


def remedies(program: Program, row: dict[str, Any]) -> list[Program]:
    """Returns what to compile next if a training program does not fit into HBM.

    That is the same program with maps computed again, and with the batch in as many parts as its
    memory suggests. If these do not fit either, the parts are halved.

    Args:
        program: the program.
        row: its row of the results.
    """
    trains = program.implementation == OURS and program.program != INFERENCE
    if row.get("reason") != TOO_LARGE or not trains or program.remat:
        return []
    if program.accumulate_steps == 1:
        parts = 2 ** math.ceil(math.log2(max(2, row["hbm"] / row["hbm_available"])))
        others = [dataclasses.replace(program, remat=True)]
    else:
        parts, others = 2 * program.accumulate_steps, []
    if program.batch_size // Topology.of(program.topology).devices % parts:
        return others
    return [*others, dataclasses.replace(program, accumulate_steps=parts)]


def key(row: dict[str, Any]) -> Program:
    """Returns the program that a row of results is about."""
    return Program(**{field.name: row[field.name] for field in dataclasses.fields(Program)})
