"""Several hosts, each a network namespace with a checkout and a corpus of its own: faults and time.

They share one folder, that of the checkpoints, as hosts must. `-s` prints a table.
"""

import os
import shutil
import signal
import socket
import time

import numpy as np
import pytest
from conftest import ROOT, tiny_recipe
from distributed_run import SAVE_SECONDS, Run
from virtual_network import Network, is_possible

from src.checkpoint import load_checkpoint

LONGEST = 60.0  # seconds from the fault to the end of the last process
DELAY, LOSS = 0.1, 0.02  # between a host and the switch, in each direction
pytestmark = pytest.mark.skipif(not is_possible(), reason="needs root and network namespaces")


class Hosts:
    """Hosts with one process each.

    Args:
        folder: for all files.
        corpus: of which each host gets a copy.
        count: of hosts.
        line: arguments of `Network`.
    """

    def __init__(self, folder, corpus, count: int, **line: float):
        self.network, self.folder, self.shared = Network(count, **line), folder, folder / "shared"
        self.count, self.runs = count, []
        self.shared.mkdir(exist_ok=True)
        for host in range(count):
            if not (folder / f"checkout-{host}").exists():
                shutil.copytree(ROOT, folder / f"checkout-{host}", symlinks=True,
                                ignore=shutil.ignore_patterns(".*", "pretrained", "logs"))
                shutil.copytree(corpus, folder / f"corpus-{host}")

    def start(self, settings: list[str], count: int | None = None) -> None:
        count = count or self.count
        self.runs = [
            Run(self.shared, [*tiny_recipe(self.folder / f"corpus-{host}", self.shared), *settings],
                count, self.network.within(host), self.folder / f"checkout-{host}",
                NODE_COUNT=str(count), NODE_RANK=str(host), MASTER_ADDR=self.network.address(0))
            for host in range(count)]

    def train(self, settings: list[str]) -> dict[str, np.ndarray]:
        """The weights at the end of a training."""
        self.start(settings)
        for run in self.runs:
            run.end()
            assert run.process.returncode == 0, run.output.read_text()
        return load_checkpoint(self.shared / "ckpt" / "DeepSpeech-last.ckpt").parameters

    def close(self) -> None:
        for run in self.runs:
            for pid in run.processes():
                os.kill(pid, signal.SIGKILL)
            run.process.wait()
        self.network.close()


@pytest.fixture
def hosts(demo_corpus, tmp_path):
    started = []

    def start(count: int, **line: float) -> Hosts:
        started.append(Hosts(tmp_path, demo_corpus, count, **line))
        return started[-1]

    yield start
    for each in started:
        each.close()


ENDLESS = ["TrainingConfig.epochs=100000", "TrainingConfig.eval_interval=100000",
           f"CheckpointConfig.save_minutes={SAVE_SECONDS / 60}"]


def table(*cells: object) -> None:
    print("\n| " + " | ".join(map(str, cells)) + " |")


@pytest.mark.parametrize("count", [2, 3])
def test_hosts_train_as_one_host_does(hosts, demo_corpus, tmp_path, count):
    """The same weights to the last bit; files come from host 0 only."""
    found = hosts(count).train(["TrainingConfig.epochs=3"])
    (tmp_path / "alone").mkdir()
    alone = Run(tmp_path / "alone", [*tiny_recipe(demo_corpus, tmp_path / "alone"),
                                     "TrainingConfig.epochs=3"], count)
    alone.end()
    expected = load_checkpoint(tmp_path / "alone" / "ckpt" / "DeepSpeech-last.ckpt").parameters
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    for host in range(1, count):
        made = {path.name for path in (tmp_path / f"checkout-{host}").rglob("*")
                if path.stat().st_mtime > (tmp_path / "shared").stat().st_ctime}
        assert not [name for name in made if name.endswith((".ckpt", ".csv"))]


def unplug(hosts: Hosts, host: int) -> None:
    hosts.network.unplug(host)


def lose_power(hosts: Hosts, host: int) -> None:
    """All processes die, and nobody says so to anybody."""
    hosts.network.unplug(host)
    kill(hosts, host)


def kill(hosts: Hosts, host: int) -> None:
    for pid in hosts.runs[host].processes():
        os.kill(pid, signal.SIGKILL)


def kill_launcher(hosts: Hosts, host: int) -> None:
    hosts.runs[host].process.kill()


@pytest.mark.parametrize("fault", [unplug, lose_power, kill, kill_launcher])
@pytest.mark.parametrize("host", [0, 2])
def test_a_host_that_fails_ends_the_others_and_fewer_go_on(hosts, fault, host):
    three = hosts(3)
    three.start(ENDLESS)
    three.runs[0].wait_until_it_trains()
    step = three.runs[0].step()
    sent = time.monotonic()
    fault(three, host)
    for other in {0, 1, 2} - {host}:
        run = three.runs[other]
        run.end()
        table(f"{fault.__name__} {host}: host {other}", f"{time.monotonic() - sent:.1f} s",
              run.process.returncode, run.last_line())
        assert time.monotonic() - sent < LONGEST
        assert run.process.returncode == 1
        assert run.last_line().startswith(f"host {host} ({socket.gethostname()}): failed: ")
    three.runs[host].end()
    assert time.monotonic() - sent < LONGEST
    three.network.plug_in(host)
    three.start(ENDLESS, count=2)
    three.runs[0].wait_until_it_trains()
    assert three.runs[0].step() > step
    for run in three.runs:
        run.process.terminate()
    for run in three.runs:
        run.end()
        assert run.process.returncode == 143


def test_a_line_that_is_too_slow_for_mindspore_is_refused(hosts):
    two = hosts(2, delay=DELAY, loss=LOSS)
    two.network.slow_down()
    two.start(ENDLESS)
    for run in two.runs:
        table("too slow", f"{run.end():.1f} s", run.process.returncode, run.last_line())
        assert run.process.returncode == 2
        assert "too far for MindSpore" in run.last_line()


def test_a_line_that_becomes_slow_is_waited_for(hosts):
    """200 ms from host to host, and 2 % of all packets lost twice on their way."""
    two = hosts(2, delay=DELAY, loss=LOSS)
    two.start(ENDLESS)
    two.runs[0].wait_until_it_trains()
    two.network.slow_down()
    step, start = two.runs[0].step(), time.monotonic()
    while time.monotonic() - start < LONGEST or two.runs[0].step() == step:
        assert [run.process.poll() for run in two.runs] == [None, None]
        time.sleep(1)
    table("slow line", f"{two.runs[0].step() - step} steps in {time.monotonic() - start:.0f} s")
