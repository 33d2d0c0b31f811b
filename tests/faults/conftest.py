import pathlib
import shutil
import subprocess
import sys

import pytest


@pytest.fixture(scope="session")
def slow_disk(tmp_path_factory):
    """Returns a function that returns an environment in which writing to a workdir is slow.

    While there is a file named like the workdir with ".fails" appended, writing fails.
    """
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("what is preloaded to slow writing down needs Linux and a C compiler")
    library = tmp_path_factory.mktemp("library") / "slow_disk.so"
    source = pathlib.Path(__file__).with_name("slow_disk.c")
    subprocess.run([compiler, "-shared", "-fPIC", source, "-o", library, "-ldl"], check=True)

    def environment(workdir, seconds=0.0, fails_one_in=100):
        return {
            "LD_PRELOAD": str(library),
            "SLOW_DISK": str(workdir),
            "SLOW_DISK_MICROSECONDS": str(int(1e6 * seconds)),
            "SLOW_DISK_FAILS": f"{workdir}.fails",
            "SLOW_DISK_FAILS_ONE_IN": str(fails_one_in),
        }

    return environment
