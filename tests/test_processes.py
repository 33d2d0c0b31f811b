import os
import pathlib
import time

from experiments.processes import in_processes, redirect_output


def mark(job):
    folder, name, seconds = job
    redirect_output(pathlib.Path(folder, "output", f"{name}.txt"))
    print("begun", flush=True)
    pathlib.Path(folder, f"{name}.begun").touch()
    time.sleep(seconds)
    pathlib.Path(folder, f"{name}.ended").touch()
    if name.startswith("bad"):
        os._exit(3)


def key(job):
    return job[1][-1]


def order(folder, suffix):
    files = sorted(folder.glob(f"*.{suffix}"), key=lambda path: path.stat().st_mtime_ns)
    return [path.stem for path in files]


def test_jobs_run_at_the_same_time_but_not_those_with_the_same_key(tmp_path):
    jobs = [(str(tmp_path), name, 0.5) for name in ("first_a", "second_a", "bad_b")]
    ended = {job[1]: status for job, status in in_processes(jobs, mark, key, 2, lambda: False)}
    assert ended == {"first_a": 0, "second_a": 0, "bad_b": 3}
    first, second = tmp_path / "first_a.ended", tmp_path / "second_a.begun"
    assert first.stat().st_mtime_ns < second.stat().st_mtime_ns
    assert order(tmp_path, "begun")[-1] == "second_a"
    assert (tmp_path / "output" / "bad_b.txt").read_text() == "begun\n"


def test_those_that_run_are_told_to_stop_and_no_other_is_started(tmp_path):
    jobs = [(str(tmp_path), name, 60) for name in ("one_a", "two_b", "three_c")]

    def both_begun():
        return len(order(tmp_path, "begun")) == 2

    ended = [(job[1], status) for job, status in in_processes(jobs, mark, key, 2, both_begun)]
    assert sorted(ended) == [("one_a", -15), ("two_b", -15)]
    assert not order(tmp_path, "ended")
