"""Hostile files: each reader of files gives a result or a refusal that names the file.

DS2_INPUTS sets the number of inputs of all targets together, 1,000 by default. The table of
docs/reliability.md is made by `python -m tests.faults.hostile`, with 100,000.
"""

import os
import shutil
import socket
import subprocess

import pytest

from tests.faults.hostile.__main__ import group, run
from tests.faults.hostile.worker import Outside, Watch, all_targets

SHARE = int(os.environ.get("DS2_INPUTS", "1000")) / 100_000
TARGETS = all_targets()


def test_the_shares_are_100_000_inputs():
    assert sum(target.share for target in TARGETS.values()) == 100_000


@pytest.mark.parametrize("action", [
    lambda folder: os.system("true"), lambda folder: subprocess.run(["true"], check=False),
    lambda folder: (folder / "outside").touch(), lambda folder: os.mkdir(folder / "outside"),
    lambda folder: os.rename(folder / "case/a", folder / "outside"),
    lambda folder: shutil.rmtree(folder / "case/.."),
    lambda folder: socket.create_connection(("127.0.0.1", 9))])
def test_what_an_input_may_not_do_is_refused(action, tmp_path):
    (tmp_path / "case").mkdir()
    watch = Watch(tmp_path / "case")
    with watch:
        (tmp_path / "case/a").write_text("inside")
    with pytest.raises(Outside), watch:
        action(tmp_path)
    assert watch.found and not (tmp_path / "outside").exists() and (tmp_path / "case/a").exists()


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_files(name, tmp_path):
    if name == "torch":
        pytest.importorskip("torch", reason="PyTorch is not there")
    count = max(1, round(SHARE * TARGETS[name].share))
    tally = run(name, 0, count, tmp_path)
    print(f"\n{name}: {count} inputs: {dict(tally.outcomes)}, {tally.seconds:.0f} s")
    assert not tally.failures, [same[0] for same in group(tally.failures)]
    assert sum(tally.outcomes.values()) == count
