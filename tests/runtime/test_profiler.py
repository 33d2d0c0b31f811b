import jax
import jax.numpy as jnp

from se_flax.runtime.paths import to_path
from se_flax.runtime.profiler import Profiler
from se_flax.train import train


def traces(workdir):
    return list((workdir / "plugins" / "profile").rglob("*.xplane.pb"))


def test_a_run_writes_one_trace_of_as_many_steps_as_asked_for(
    tiny_config, stripes, tmp_path, capsys
):
    tiny_config.num_epochs, tiny_config.profile_steps = 1, 3
    train(tiny_config, tmp_path, stripes)
    (trace,) = traces(tmp_path)
    assert trace.stat().st_size > 1000
    assert (
        f"profile of the steps up to 4: {tmp_path / 'plugins' / 'profile'}"
        in capsys.readouterr().out
    )
    # TensorBoard finds nothing else there than it did before.
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 1


def test_nothing_is_traced_unless_asked_for(tmp_path):
    profiler = Profiler(to_path(tmp_path), 0)
    profiler.start()
    assert profiler.add(5, jnp.ones(3)) is None
    assert not list(tmp_path.iterdir())


def test_a_trace_that_is_not_complete_is_written_at_the_end(tmp_path):
    profiler = Profiler(to_path(tmp_path), 10)
    profiler.start()
    assert profiler.add(2, jax.jit(lambda x: x @ x)(jnp.ones((9, 9)))) is None
    profiler.stop()
    assert len(traces(tmp_path)) == 1
    profiler.start()  # there is one trace in a run
    profiler.stop()
    assert len(traces(tmp_path)) == 1
