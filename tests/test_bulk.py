"""`deepspeech2 bulk` with real processes: equal results, whatever is killed."""

import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from bulk_process import (
    children,
    fatal_shard,
    finished,
    full_disk,
    refuse,
    run,
    script,
    slow_share,
    start,
    where,
)
from service_process import wait_for

from deepspeech2 import cli, load_model
from deepspeech2.bulk import engines, job, shards, work
from deepspeech2.cores import usable_cores
from deepspeech2.decoding.decoders import LMConfig
from deepspeech2.errors import InputError, RunError
from deepspeech2.files import atomic_path

__all__ = ["script"]  # a fixture
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def recordings(demo_corpus, tmp_path_factory) -> Path:
    """A folder with 16 recordings of two seconds or so, and two that are none."""
    folder = tmp_path_factory.mktemp("bulk") / "recordings"
    (folder / "more").mkdir(parents=True)
    for number, path in enumerate(sorted(demo_corpus.rglob("*.wav"))[:16]):
        shutil.copy(path, folder / ("more" if number % 3 else "") / f"{number:02}.wav")
    (folder / "05-broken.wav").write_text("no recording")
    (folder / "more" / "empty.flac").touch()
    return folder


def read(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / job.TRANSCRIPTS).read_text().splitlines()]


@pytest.fixture(scope="module")
def single(recordings, script, tmp_path_factory) -> Path:
    """The results of one process."""
    folder = tmp_path_factory.mktemp("single") / "out"
    code, output = run(script, recordings, "--output", folder, "--workers", "1")
    assert code == 2, output
    return folder


def test_every_recording_has_its_line_in_order(recordings, single):
    found = read(single)
    paths = [Path(record["audio"]).relative_to(recordings) for record in found]
    assert paths == sorted(paths, key=lambda path: (len(path.parts), path))
    assert len(paths) == 18
    failed = {path.name: record["error"] for path, record in zip(paths, found, strict=True)
              if "error" in record}
    assert failed.keys() == {"05-broken.wav", "empty.flac"}
    assert all(name in message for name, message in failed.items())


def test_texts_and_times_are_those_of_the_model(recordings, single):
    model, by_path = load_model("english"), {record["audio"]: record for record in read(single)}
    shard = [json.loads(line) for line in
             (single / "shards" / "000001.jsonl").read_text().splitlines()[:-1]]
    good = [record["audio"] for record in shard if "text" in record]
    assert len(good) > 1
    for path, result in zip(good, model.transcribe_many(good), strict=True):
        record = by_path[path]
        assert record["text"] == result.text and record["duration"] == round(result.duration, 3)
        words = result.words
        assert [word["start"] for word in record["words"]] == [round(w.start, 3) for w in words]


def test_the_summary_adds_up(single):
    summary = json.loads((single / job.SUMMARY).read_text())
    found = read(single)
    assert summary["recordings"] == 18 and summary["failures"] == summary["input_errors"] == 2
    assert summary["hours"] == round(sum(r.get("duration", 0) for r in found) / 3600, 3)
    assert summary["words"] == sum(len(r.get("words", ())) for r in found)
    assert len(summary["slowest_shards"]) == 5


def test_parts_on_several_machines_make_the_same(recordings, script, single, tmp_path):
    """The last one to finish puts all together."""
    code, output = run(script, recordings, "--output", tmp_path, "--shard", "2/2")
    assert code == 0 and "other parts are not finished" in output
    assert not (tmp_path / job.TRANSCRIPTS).exists()
    assert run(script, recordings, "--output", tmp_path, "--shard", "1/2")[0] == 2
    assert (tmp_path / job.TRANSCRIPTS).read_bytes() == (single / job.TRANSCRIPTS).read_bytes()


def test_after_kills_of_workers_and_driver_the_results_are_equal(
        recordings, script, single, tmp_path):
    """A worker is killed at its first shard, the driver after the second; no process stays."""
    process = start(script, recordings, "--output", tmp_path, "--workers", "2", GO_ON="never")
    while not (workers := children(process.pid)):
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(workers[0], signal.SIGKILL)
    while finished(tmp_path) < 2:
        assert process.poll() is None
        time.sleep(0.02)
    workers = children(process.pid)
    process.kill()
    process.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("shards/*.jsonl")}
    code, output = run(script, recordings, "--output", tmp_path, "--workers", "2")
    assert code == 2, output
    assert (tmp_path / job.TRANSCRIPTS).read_bytes() == (single / job.TRANSCRIPTS).read_bytes()
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_damaged_shard_of_another_part_is_named(recordings, script, single, tmp_path):
    """The part that comes last cannot mend it."""
    assert run(script, recordings, "--output", tmp_path, "--shard", "2/2")[0] == 0
    damaged = max(tmp_path.glob("shards/*.jsonl"))
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-9])
    code, output = run(script, recordings, "--output", tmp_path, "--shard", "1/2")
    assert code == 1 and f"{damaged}: damaged: start the command" in output
    assert not (tmp_path / job.TRANSCRIPTS).exists()
    assert run(script, recordings, "--output", tmp_path, "--shard", "2/2")[0] == 2
    assert (tmp_path / job.TRANSCRIPTS).read_bytes() == (single / job.TRANSCRIPTS).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_one_line_and_no_process(demo_corpus, script, tmp_path, number):
    """Long before all is recognised."""
    (tmp_path / "many").mkdir()
    for path in demo_corpus.rglob("*.wav"):
        for copy in range(30):
            os.link(path, tmp_path / "many" / f"{path.parent.parent.name}-{copy}-{path.name}")
    process = start(script, tmp_path / "many", "--output", tmp_path / "out", "--workers", "2")
    while not (workers := children(process.pid)):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, output
    assert "Traceback" not in output and "its process ended" not in output, output
    assert output.splitlines()[-1] in ("stopped by SIGTERM", "interrupted")
    wait_for(lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers))


def test_a_shard_that_was_cut_is_recognised_again(recordings, script, single, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(single, folder)
    cut = folder / "shards" / "000002.jsonl"
    cut.write_bytes(cut.read_bytes()[:-40])
    code, output = run(script, recordings, "--output", folder)
    assert code == 2 and re.search(r"INFO 1 of \d+ shards are to be recognised", output)
    assert (folder / job.TRANSCRIPTS).read_bytes() == (single / job.TRANSCRIPTS).read_bytes()


def test_failures_are_tried_again_when_asked(demo_corpus, tmp_path):
    """A recording of the same size is one that could be read later, on a share that is slow."""
    good = min(demo_corpus.rglob("*.wav"))
    shutil.copy(good, tmp_path / "a.wav")
    (tmp_path / "b.wav").write_bytes(bytes(os.path.getsize(good)))
    arguments = ["bulk", str(tmp_path), "--output", str(tmp_path / "out"), "--workers", "1"]
    assert cli.main(arguments) == 2
    shutil.copy(good, tmp_path / "b.wav")
    assert cli.main(arguments) == 2
    assert cli.main([*arguments, "--retry_errors"]) == 0
    first, second = read(tmp_path / "out")
    assert first["text"] == second["text"] != ""


def test_a_recording_that_was_mended_is_recognised_by_the_same_command(
        demo_corpus, tmp_path, monkeypatch):
    """Though by its length the recordings would now be divided otherwise."""
    monkeypatch.setattr(shards, "SHARD_SECONDS", 3.0)
    folder = tmp_path / "recordings"
    folder.mkdir()
    for number, path in enumerate(sorted(demo_corpus.rglob("*.wav"))[:6]):
        shutil.copy(path, folder / f"{number}.wav")
    whole = (folder / "1.wav").read_bytes()
    (folder / "1.wav").write_bytes(whole[:100])
    arguments = ["bulk", str(folder), "--output", str(tmp_path / "out"), "--workers", "1"]
    assert cli.main(arguments) == 2
    before = read(tmp_path / "out")
    files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("out/shards/*")}
    (folder / "1.wav").write_bytes(whole)
    assert cli.main(arguments) == 0
    after = read(tmp_path / "out")
    assert len(files) > 1
    assert [path.stem for path, time in files.items() if path.stat().st_mtime_ns != time] == [
        "000000"]
    assert "error" in before[1] and after[1]["text"]
    assert [r for r in after if r != after[1]] == [r for r in before if r != before[1]]


def test_a_folder_whose_plan_cannot_be_read_is_refused(demo_corpus, tmp_path, capsys):
    paths = [str(path) for path in sorted(demo_corpus.rglob("*.wav"))[:1]]
    output = ["--output", str(tmp_path / "out"), "--workers", "1"]
    assert cli.main(["bulk", paths[0], *output]) == 0
    plan = tmp_path / "out/plan.json"
    known = json.loads(plan.read_text())
    for content in ([], known | {"recordings_of_shards": [2]}, {"job": known["job"]}):
        plan.write_text(json.dumps(content))
        assert cli.main(["bulk", paths[0], *output]) == 2
        assert "plan.json: not the plan of a job" in capsys.readouterr().err


def test_the_folder_of_another_job_is_refused(demo_corpus, tmp_path, capsys):
    paths = [str(path) for path in sorted(demo_corpus.rglob("*.wav"))[:2]]
    output = ["--output", str(tmp_path / "out"), "--workers", "1"]
    assert cli.main(["bulk", paths[0], *output]) == 0
    for other in ([paths[1]], [*paths], [paths[0], "--decoder", "beam"], [paths[0], "--channel=1"]):
        assert cli.main(["bulk", *other, *output]) == 2
        assert "belongs to a job with other recordings" in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["an4.onnx", "an4.json", "words.txt", ""])
def test_a_job_whose_files_or_program_have_changed_is_refused(
        demo_corpus, tmp_path, capsys, monkeypatch, changed):
    """Transcripts of two models under one name must not be mixed."""
    for path in (ROOT / "deepspeech2" / "assets").glob("an4.*"):
        shutil.copy(path, tmp_path)
    (tmp_path / "words.txt").write_text("ONE\nTWO\n")
    command = ["bulk", str(min(demo_corpus.rglob("*.wav"))), "--output", str(tmp_path / "out"),
               "--workers", "1", "--model", str(tmp_path / "an4.onnx"),
               "--lexicon", str(tmp_path / "words.txt"), "--decoder", "beam"]
    assert cli.main(command) == 0
    assert cli.main(command) == 0
    if changed:
        with open(tmp_path / changed, "a", encoding="utf-8") as file:
            file.write("\n")
    else:
        monkeypatch.setattr(work, "_program", lambda: "another version")
    assert cli.main(command) == 2
    assert "belongs to a job with other recordings, model, settings or program" in \
        capsys.readouterr().err


def test_recordings_that_are_gone_keep_their_results(demo_corpus, tmp_path):
    """As on a disk that is not mounted. One that has another size is recognised again."""
    for path in sorted(demo_corpus.rglob("*.wav"))[:2]:
        shutil.copy(path, tmp_path)
    first, second = sorted(tmp_path.glob("*.wav"))
    command = ["bulk", "--manifest", str(tmp_path / "a.csv"), "--output", str(tmp_path / "out"),
               "--workers", "1"]
    (tmp_path / "a.csv").write_text(f"{first}\n{second}\n")
    assert cli.main(command) == 0
    before = (tmp_path / "out" / job.TRANSCRIPTS).read_bytes()
    first.unlink()
    assert cli.main([*command, "--retry_errors"]) == 0
    assert (tmp_path / "out" / job.TRANSCRIPTS).read_bytes() == before
    first.write_bytes(second.read_bytes() + bytes(2))
    assert cli.main(command) == 0
    assert (tmp_path / "out" / job.TRANSCRIPTS).read_bytes() != before


def test_a_part_whose_recordings_have_changed_is_waited_for(recordings, script, tmp_path):
    """The last part puts all together, not the first one that finds files of all shards."""
    shutil.copytree(recordings, tmp_path / "in")
    parts = [[tmp_path / "in", "--output", tmp_path / "out", "--shard", f"{n}/2"] for n in (1, 2)]
    assert [run(script, *part)[0] for part in parts] == [0, 2]
    for path in (tmp_path / "in").rglob("*.wav"):
        path.write_bytes(path.read_bytes() + bytes(2))
    assert [run(script, *part)[0] for part in parts] == [0, 2]


def test_of_commands_that_begin_at_once_one_makes_the_plan(demo_corpus, tmp_path, monkeypatch):
    """The other one is refused where it is of another job."""
    paths = [str(path) for path in sorted(demo_corpus.rglob("*.wav"))[:2]]
    tasks = [work.make_task(name, LMConfig(), None, 8) for name in ("an4", "english")]
    real = job.make_shards

    def slow(*arguments):
        monkeypatch.setattr(job, "make_shards", real)
        job.Job(str(tmp_path), tasks[0], paths, [1, 1])
        return real(*arguments)

    monkeypatch.setattr(job, "make_shards", slow)
    with pytest.raises(InputError, match="belongs to a job with other"):
        job.Job(str(tmp_path), tasks[1], paths, [1, 1])
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


def test_recordings_that_are_not_there_yet_are_divided_too():
    paths = [f"{number}.wav" for number in range(200)]
    counts = [len(shard.paths) for shard in shards.make_shards(paths, [0] * 200)]
    assert counts == [60, 60, 60, 20]


@pytest.mark.parametrize("file", ["000000.jsonl", job.TRANSCRIPTS, job.SUMMARY])
def test_a_result_that_cannot_be_written_fails_the_run_and_the_next_one_goes_on(
        demo_corpus, tmp_path, monkeypatch, capsys, file):
    def full(path):
        if Path(path).name == file:
            raise OSError(28, "No space left on device")
        return atomic_path(path)

    command = ["bulk", *map(str, sorted(demo_corpus.rglob("*.wav"))[:2]), "--workers", "1"]
    assert cli.main([*command, "--output", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patch:
        patch.setattr(job, "atomic_path", full)
        assert cli.main([*command, "--output", str(tmp_path / "out")]) == 1
    assert f"{file}: cannot write: No space left on device" in capsys.readouterr().err
    assert not (tmp_path / "out" / job.SUMMARY).exists()
    assert cli.main([*command, "--output", str(tmp_path / "out")]) == 0
    for name in (job.TRANSCRIPTS, "shards/000000.jsonl"):
        found, expected = ((tmp_path / run / name).read_text() for run in ("out", "whole"))
        assert re.sub('"seconds": [0-9.]+', "", found) == re.sub('"seconds": [0-9.]+', "", expected)


@pytest.mark.parametrize(("options", "message"), [
    (["--shard", "3/2"], "'3/2' must be I/N, with I from 1 to N"),
    (["--shard", "0/2"], "'0/2' must be I/N"),
    (["--workers", "0"], "must be a number from 1 on"),
    (["--workers", "auto", "--channel", "average", "--model", "no.onnx"],
     "no.onnx: cannot be read"),
    (["--workers", "2", "--scheduler", "tcp://127.0.0.1:1"], "not allowed with"),
    (["--scheduler", "tcp://127.0.0.1:1"], "no scheduler answers there"),
    (["--scheduler", "nonsense://x"], "no scheduler answers there"),
    (["--model", "nothing.onnx"], "nothing.onnx: cannot be read"),
])
def test_bad_options(demo_corpus, tmp_path, capsys, monkeypatch, options, message):
    pytest.importorskip("distributed")
    monkeypatch.setattr(engines, "_ANSWER", 1.0)
    path = min(demo_corpus.rglob("*.wav"))
    try:
        code = cli.main(["bulk", str(path), "--output", str(tmp_path / "out"), *options])
    except SystemExit as error:
        code = error.code
    assert code == 2 and message in capsys.readouterr().err


def test_standard_input_is_refused(tmp_path, capsys):
    assert cli.main(["bulk", "-", "--output", str(tmp_path)]) == 2
    assert "standard input cannot be read again" in capsys.readouterr().err


# shards

def test_shards_are_of_ten_minutes_by_the_headers(tmp_path, monkeypatch):
    lengths = {"a": 400.0, "b": 300.0, "c": 50.0, "d": 700.0, "e": 1.0}
    monkeypatch.setattr(shards, "estimated_seconds", lambda path, size: lengths[path])
    found = shards.make_shards(list(lengths), [1] * 5)
    assert [shard.paths for shard in found] == [("a", "b"), ("c", "d"), ("e",)]
    assert [shard.number for shard in found] == [0, 1, 2]


def test_the_length_of_a_recording(demo_corpus, tmp_path):
    path = str(min(demo_corpus.rglob("*.wav")))
    size = os.path.getsize(path)
    assert shards.estimated_seconds(path, size) == pytest.approx((size - 44) / 32000, abs=0.01)
    assert shards.estimated_seconds(str(tmp_path / "none"), 0) == 0
    os.mkfifo(tmp_path / "pipe.wav")  # nobody writes to it
    assert shards.estimated_seconds(str(tmp_path / "pipe.wav"), 0) == 0
    assert shards.estimated_seconds(str(ROOT / "README.md"), 160_000) == 10


# processes of this machine

def test_a_process_ends_without_a_word_when_nobody_is_there_to_answer(capfd):
    """As when the command is stopped while a process begins."""
    process = engines._Process(one_core=True)
    assert process.run(os.getppid) == os.getpid()
    process._pipe.close()
    process._process.join(60)
    assert process._process.exitcode == 0
    assert capfd.readouterr().err == ""


def test_several_processes_have_a_thread_each_on_any_core():
    """Bound to the same cores, two commands on one machine would leave the others idle."""
    engine = engines.Processes(2)
    try:
        assert engine.run(usable_cores) == 1
        assert engine.run(os.sched_getaffinity, 0) == os.sched_getaffinity(0)
    finally:
        engine.close()


# recordings that end the process

def complete(monkeypatch, *paths) -> list[dict]:
    monkeypatch.setattr(job, "run_shard", fatal_shard)
    task = work.Task("an4", LMConfig(), None, 8, ())
    engine = engines.Processes(1)
    try:
        return job._complete(engine, task, shards.Shard(0, paths, (1,) * len(paths))).records
    finally:
        engine.close()


def test_a_recording_that_ends_the_process_is_left_out(monkeypatch):
    records = complete(monkeypatch, "a", "fatal", "b")
    assert [record["audio"] for record in records] == ["a", "fatal", "b"]
    assert ["error" in record for record in records] == [False, True, False]
    assert records[1]["error"] == "fatal: ended the process that read it, in 2 tries"


def test_recordings_that_end_the_process_only_together_fail(monkeypatch):
    records = complete(monkeypatch, "a", "together")
    assert all("but none alone" in record["error"] for record in records)


# a cluster of dask

def test_a_cluster_whose_worker_is_killed_makes_the_same(
        recordings, script, single, tmp_path, cluster):
    go_on = tmp_path / "go on"
    process = start(script, recordings, "--output", tmp_path / "out", "--scheduler",
                    cluster.scheduler_address, GO_ON=str(go_on))
    while finished(tmp_path / "out") < 2:
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(next(iter(cluster.workers.values())).pid, signal.SIGKILL)
    go_on.touch()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2, output
    found = tmp_path / "out" / job.TRANSCRIPTS
    assert found.read_bytes() == (single / job.TRANSCRIPTS).read_bytes()


def test_a_worker_that_fails_the_check_is_not_used(cluster, caplog):
    import distributed
    with distributed.Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)  # the one that was killed is begun again
        client.run(sys.path.insert, 0, str(Path(__file__).parent))
        bad, good = client.nthreads()
    engine = engines.Cluster(cluster.scheduler_address, (refuse, bad))
    try:
        assert {engine.run(where) for _ in range(4)} == {good}
        assert f"{bad} is not used: host-1: other contents" in caplog.text
        with pytest.raises(OSError, match=r"No space left on device: 'a.flac'"):
            engine.run(full_disk)  # the cluster is well
        with pytest.raises(TimeoutError, match=r"Connection timed out: 'a.flac'"):
            engine.run(slow_share)
    finally:
        engine.close()


def test_two_files_of_a_decoder_may_have_one_name(tmp_path):
    for order in (1, 2):
        (tmp_path / str(order)).mkdir()
        (tmp_path / str(order) / "text").write_text(f"A {order}")
    words, letters = (str(tmp_path / order / "text") for order in "12")
    settings = LMConfig(decoder_type="beam", lm_path=words, letter_lm_path=letters)
    task = work.make_task("an4", settings, None, 8)
    assert {words, letters} < dict(task.contents).keys()
    with pytest.raises(InputError, match="1/text:1: not an ARPA"):  # but as it was
        work.verify(task)


def test_a_worker_with_another_model_says_so():
    task = work.Task("an4", LMConfig(), None, 8, (("an4.onnx", "0" * 64),))
    with pytest.raises(RunError, match="other contents than where the job began: an4.onnx"):
        work.verify(task)
