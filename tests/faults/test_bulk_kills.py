"""`deepspeech2 bulk` whose processes are killed at random moments."""

import contextlib
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from bulk_process import children, finished, run, script, start

from deepspeech2.bulk import job

__all__ = ["script"]  # a fixture
TRIALS = int(os.environ.get("DS2_TRIALS", "6"))


@pytest.fixture(scope="module")
def recordings(demo_corpus, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bulk") / "recordings"
    folder.mkdir()
    for number in range(4):
        for path in demo_corpus.rglob("*.wav"):
            shutil.copy(path, folder / f"{path.parent.parent.name}-{path.stem}-{number}.wav")
    return folder


def test_results_are_equal_after_kills_at_random_moments(recordings, script, tmp_path):
    """Every other kill is the driver's; the others are those of one of its two workers."""
    begin = time.monotonic()
    assert run(script, recordings, "--output", tmp_path / "whole", "--workers", "1")[0] == 0
    lasts = time.monotonic() - begin  # seconds: a kill that comes later kills nobody
    whole = (tmp_path / "whole" / job.TRANSCRIPTS).read_bytes()
    rng, folder, killed = random.Random(0), tmp_path / "killed", 0
    process = None
    while killed < TRIALS:
        if process is None:
            process = start(script, recordings, "--output", folder, "--workers", "2")
        time.sleep(rng.uniform(0.2, lasts))
        if process.poll() is not None:  # finished: again from nothing
            assert (folder / job.TRANSCRIPTS).read_bytes() == whole
            shutil.rmtree(folder)
            process = None
            continue
        workers = children(process.pid)
        if killed % 2 and workers:
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.kill(rng.choice(workers), signal.SIGKILL)
        else:
            process.kill()
            process.communicate()
            process = None
        killed += 1
        print(f"kill {killed}: {finished(folder)} shards finished", flush=True)
    if process is not None:
        process.communicate()
    assert run(script, recordings, "--output", folder, "--workers", "2")[0] == 0
    assert (folder / job.TRANSCRIPTS).read_bytes() == whole
