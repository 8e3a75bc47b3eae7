"""Hostile files: each reader of files gives a result or a refusal that names the file.

DS2_INPUTS sets the number of inputs of all targets together, 1,000 by default. The table of
docs/reliability.md is made by `python -m tests.faults.hostile`, with 100,000.
"""

import os

import pytest

from tests.faults.hostile.__main__ import group, run
from tests.faults.hostile.worker import all_targets

SHARE = int(os.environ.get("DS2_INPUTS", "1000")) / 100_000
TARGETS = all_targets()


def test_the_shares_are_100_000_inputs():
    assert sum(target.share for target in TARGETS.values()) == 100_000


@pytest.mark.parametrize("name", TARGETS)
def test_hostile_files(name, tmp_path):
    if name == "torch":
        pytest.importorskip("torch", reason="PyTorch is not there")
    count = max(1, round(SHARE * TARGETS[name].share))
    tally = run(name, 0, count, tmp_path)
    print(f"\n{name}: {count} inputs: {dict(tally.outcomes)}, {tally.seconds:.0f} s")
    assert not tally.failures, [same[0] for same in group(tally.failures)]
    assert sum(tally.outcomes.values()) == count
