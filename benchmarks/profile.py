"""Where a training step of ours spends its time: its parts one by one, on inputs of the sizes that they have in it."""

from collections.abc import Iterator

from benchmarks.bench import OURS, Bench
from benchmarks.workers import workers


def profile(bench: Bench) -> Iterator[dict]:
    """Seconds of every part, forward, and forward and backward together. One row a part, the largest network."""
    config = bench.config(bench.sizes.units[-1])
    batch, row = bench.batch(bench.sizes.batches[0])
    with workers({OURS: "side_profile"}) as sides:
        worker = sides[OURS]
        worker.call("start")
        worker.call("build", config=config)
        worker.call("set_batch", batch=batch)
        for part in worker.call("parts"):
            forward, both = worker.call("measure", part=part)
            yield {"units": config.ModelConfig.hidden_size} | row | {"part": part, "forward": forward, "both": both}
