"""Corpora that the workers of a dask cluster prepare: the files of one process, or a clear end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ROOT

import distributed
from data import corpus
from data.common import parallel, program, verify_worker
from deepspeech2.bulk import engines
from deepspeech2.errors import InputError, RunError

RATE = 16000


def write_speech(path: Path, number: int, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(number).uniform(-0.1, 0.1, RATE + 160 * number)
    soundfile.write(path, samples, RATE, **options)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """LibriSpeech with 70 utterances, one of them broken; and a recording with two segments."""
    folder = tmp_path_factory.mktemp("sources")
    chapter = folder / "LibriSpeech" / "dev-clean" / "1" / "2"
    for i in range(70):
        write_speech(chapter / f"1-2-{i:04d}.flac", i)
    (chapter / "1-2-0033.flac").write_bytes(b"fLaC, not really")
    lines = "".join(f"1-2-{i:04d} A WORD\n" for i in range(70))
    (chapter / "1-2.trans.txt").write_text(lines)
    kaldi = folder / "talks"
    write_speech(kaldi / "talk.wav", 99)
    (kaldi / "wav.scp").write_text(f"talk {kaldi}/talk.wav\n")
    (kaldi / "segments").write_text("talk-1 talk 0.0 0.5\ntalk-2 talk 0.5 1.25\n")
    (kaldi / "text").write_text("talk-1 A WORD\ntalk-2 ANOTHER ONE\n")
    return folder


def prepare(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def content(folder: Path) -> dict[str, bytes]:
    """The files of a folder, without locks, and without indexes, which hold times."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*"))
            if path.is_file() and path.suffix not in (".lock", ".npz")}


@pytest.mark.parametrize(("command", "files"), [
    (["data.librispeech", "--subsets", "dev-clean", "--source", "LibriSpeech"], 2 * 69),
    (["data.corpus", "talks", "--format", "kaldi", "--name", "talk"], 2 * 2)])
def test_a_cluster_makes_what_one_process_makes(command, files, sources, cluster, tmp_path):
    command = [sources / part if (sources / str(part)).exists() else part for part in command]
    command += ["--target", tmp_path / "data"]
    alone = prepare(*command, "--jobs", 1)
    expected = content(tmp_path / "data")
    assert sum(name.endswith((".wav", ".txt")) for name in expected) >= files, alone.stderr
    (tmp_path / "data").rename(tmp_path / "alone")
    together = prepare(*command, "--scheduler", cluster.scheduler_address)
    assert (together.returncode, together.stdout) == (alone.returncode, alone.stdout), \
        together.stderr
    assert content(tmp_path / "data") == expected


def test_no_scheduler(sources, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(engines, "_ANSWER", 1)  # seconds
    assert corpus.main([str(sources / "talks"), "--format", "kaldi", "--target", str(tmp_path),
                        "--scheduler", "tcp://127.0.0.1:9"]) == 2
    error = capsys.readouterr().err
    assert "--scheduler tcp://127.0.0.1:9: no scheduler answers there" in error
    assert "Traceback" not in error


def test_a_worker_of_another_program_or_without_the_folder(tmp_path):
    verify_worker(program(), tmp_path)
    with pytest.raises(RunError, match="another version of the program"):
        verify_worker("0" * 64, tmp_path)
    with pytest.raises(RunError, match=f"does not see {tmp_path}: it must be a folder"):
        verify_worker(program(), tmp_path / "marker")


def slow(folder: Path, number: int) -> int:
    (folder / f"{number}-{os.getpid()}").touch()
    time.sleep(0.1)
    return number


def fail(number: int) -> int:
    raise InputError(f"item {number}")


def test_a_killed_worker_costs_its_part_only(cluster, tmp_path):
    """Its part is done by the other one, and what comes out has its order."""
    with distributed.Client(cluster, set_as_default=False) as client:
        client.run(sys.path.insert, 0, str(Path(__file__).parent))
        process = subprocess.Popen(
            [sys.executable, "-c", KILL, cluster.scheduler_address, str(tmp_path)], cwd=ROOT,
            env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{Path(__file__).parent}"},
            stdout=subprocess.PIPE, text=True)
        while len(done := list(tmp_path.glob("[!.]*-*"))) < 5:
            assert process.poll() is None
            time.sleep(0.02)
        victim = int(done[0].name.split("-")[1])
        os.kill(victim, signal.SIGKILL)
        output, _ = process.communicate(timeout=120)
    assert output == f"{list(range(100))}\n"


KILL = """
import sys
from functools import partial
from pathlib import Path
from data.common import parallel
from test_data_cluster import slow

folder = Path(sys.argv[2])
print(list(parallel(partial(slow, folder), range(100), sys.argv[1], "numbers", folder)))
"""


def test_an_error_comes_through(cluster, tmp_path):
    with distributed.Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)  # the one that was killed is begun again
        client.run(sys.path.insert, 0, str(Path(__file__).parent))
    with pytest.raises(InputError, match="item 0"):
        list(parallel(fail, range(3), cluster.scheduler_address, "numbers", tmp_path))
