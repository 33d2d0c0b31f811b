"""TPU chips: what they have, and how long they need at least.

The figures are those of Google Cloud's documentation, whose page is next to each. It writes GB for
the memory of v5e, v5p and v6e; the limits that the TPU compiler reports show that GiB are meant.
"""

import dataclasses

from se_flax.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Chip:
    """A TPU chip.

    Attributes:
        flops: peak number of bfloat16 operations per second.
        bandwidth: bytes per second that move between chip and HBM.
        hbm: bytes of HBM.
        source: page of the documentation.
        accelerator: prefix of the accelerator types, which end in a number of `counted` units.
        counted: units that an accelerator type counts on one chip: TensorCores up to v5p, and
            chips since.
        devices: JAX devices on one chip.
        config: name of the configuration in which libtpu uses the chip as on Cloud TPU, if that is
            not its default: on v4, both TensorCores are one device.
    """

    flops: float
    bandwidth: float
    hbm: float
    source: str
    accelerator: str
    counted: int = 1
    devices: int = 1
    config: str = ""


DOCUMENTATION = "https://cloud.google.com/tpu/docs"
CHIPS = {
    "v3": Chip(123e12, 900e9, 32 * 2**30, f"{DOCUMENTATION}/v3", "v3", 2, devices=2),
    "v4": Chip(275e12, 1200e9, 32 * 2**30, f"{DOCUMENTATION}/v4", "v4", 2, config="megacore"),
    "v5e": Chip(197e12, 819e9, 16 * 2**30, f"{DOCUMENTATION}/v5e", "v5litepod"),
    "v5p": Chip(459e12, 2765e9, 95 * 2**30, f"{DOCUMENTATION}/v5p", "v5p", 2),
    "v6e": Chip(918e12, 1638e9, 32 * 2**30, f"{DOCUMENTATION}/v6e", "v6e"),
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Connected chips, such as "v5e:2x4".

    Attributes:
        name: the name that JAX gives them.
        chip: the kind of chip.
        chips: their number.
    """

    name: str
    chip: Chip
    chips: int

    @classmethod
    def of(cls, name: str) -> "Topology":
        """Reads a name; raises `UserError` if it is not that of a topology."""
        kind, _, shape = name.partition(":")
        if kind not in CHIPS:
            raise UserError(
                f'--topologies: there is no TPU "{kind}"{nearest(kind, CHIPS)}; known are '
                f"{', '.join(CHIPS)}"
            )
        sizes = shape.split("x")
        if len(sizes) not in (2, 3) or not all(size.isdigit() and int(size) for size in sizes):
            raise UserError(
                f'--topologies: "{name}" must be a TPU and its shape, as in v5e:2x4 or v4:2x2x1'
            )
        chips = 1
        for size in sizes:
            chips *= int(size)
        return cls(name, CHIPS[kind], chips)

    @property
    def devices(self) -> int:
        """Number of JAX devices."""
        return self.chips * self.chip.devices

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which libtpu compiles for it on a machine without TPUs.

        The last one lets several processes compile at the same time.
        """
        return {
            "JAX_PLATFORMS": "cpu",
            "TPU_SKIP_MDS_QUERY": "1",
            "TPU_ACCELERATOR_TYPE": f"{self.chip.accelerator}-{self.chips * self.chip.counted}",
            "TPU_WORKER_HOSTNAMES": "localhost",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        }


def least_seconds(chip: Chip, flops: float, num_bytes: float) -> tuple[float, str]:
    """Returns the time that a chip needs at least, and what bounds it: "FLOPs" or "bytes".

    Args:
        chip: the chip.
        flops: operations on the chip.
        num_bytes: bytes that it reads and writes.
    """
    return max((flops / chip.flops, "FLOPs"), (num_bytes / chip.bandwidth, "bytes"))
