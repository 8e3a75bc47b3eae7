"""`deepspeech2 bulk`, from its options to its exit code."""

import argparse
import logging
import time
from collections.abc import Sequence

from deepspeech2.bulk.engines import Cluster, Engine, Processes
from deepspeech2.bulk.job import SUMMARY, TRANSCRIPTS, Job, put_together, recognise
from deepspeech2.bulk.shards import file_size
from deepspeech2.bulk.work import Task, make_task, verify
from deepspeech2.cores import usable_cores
from deepspeech2.decoding.decoders import LMConfig

logger = logging.getLogger(__name__)


def run(args: argparse.Namespace, paths: Sequence[str], decoder: LMConfig) -> int:
    """Recognise recordings; returns the exit code: 2 or 1 when some of all recordings failed.

    Raises:
        InputError: for a model or folder that cannot be used, and as `Cluster`.
        RunError: for a file that cannot be written, and a cluster that is gone.
    """
    start = time.monotonic()
    task = make_task(args.model, decoder, args.channel, args.batch_size)
    sizes = [file_size(path) for path in paths]
    job = Job(args.output, task, paths, sizes)
    part, parts = args.shard
    chosen = job.shards[part - 1 :: parts]
    waiting = job.unfinished(chosen, args.retry_errors)
    logger.info("%d of %d shards are to be recognised", len(waiting), len(chosen))
    audio = 0.0
    if waiting:
        audio = recognise(job, waiting, _engine(task, args, len(waiting)))
    summary = put_together(job, time.monotonic() - start, audio)
    if summary is None:
        logger.info("other parts are not finished: whoever comes last puts all together")
        return 0
    logger.info(
        "%s: %d recordings, %.2f hours, %d failed; %s",
        job.folder / TRANSCRIPTS, summary["recordings"], summary["hours"], summary["failures"],
        job.folder / SUMMARY,
    )  # fmt: skip
    if summary["input_errors"]:
        return 2
    return 1 if summary["failures"] else 0


def _engine(task: Task, args: argparse.Namespace, most: int) -> Engine:
    """What the options ask for, for at most `most` shards at once."""
    if args.scheduler:
        return Cluster(args.scheduler, (verify, task))
    verify(task)  # what is wrong with the model is said once, and before any process begins
    workers = args.workers or usable_cores()
    return Processes(min(workers, most))
