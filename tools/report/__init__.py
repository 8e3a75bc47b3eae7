"""`eval.py --report DIR`: what a model gets wrong, for somebody who wants to know what to fix next.

`figures` computes, `media` draws and records, `page.html` with `page.css` and `page.js` shows.
"""

import base64
import datetime
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from deepspeech2.errors import InputError
from deepspeech2.files import atomic_path, ensure_writable, parse_json
from deepspeech2.model import Model
from src.evaluation import Evaluation, Rate, write_csv
from src.manifest import Manifest
from tools.report import figures

logger = logging.getLogger(__name__)

FORMAT = "deepspeech2 report 1"  # marks a summary.json as ours
FILES = PAGE, TABLE, SUMMARY = "report.html", "utterances.csv", "summary.json"
PAGE_BYTES = 10_000_000  # the page is never larger
MEDIA_CHARACTERS = PAGE_BYTES - 4_000_000  # recordings and pictures, in base64
SHOWN_ROWS = 500  # of the table of utterances
SHOWN_CONFUSIONS = 15
# what the page shows at most: rows of tables, aligned words of an utterance, characters of texts
LIMITS = {"shown_speakers": 20, "shown_unreadable": 50, "shown_pairs": 200,
          "name_characters": 120, "text_characters": 300, "word_characters": 40}


@dataclass(frozen=True)
class Task:
    """What was evaluated.

    Attributes:
        result: the scored utterances.
        rates: the rates of all of them.
        speakers: (rows,) who speaks in each row of the manifest.
        source: where the model comes from.
        decoder: how probabilities became text.
    """

    result: Evaluation
    rates: dict[str, Rate]
    manifest: Manifest
    speakers: Sequence[str]
    model: Model
    source: str
    decoder: str


def check_folder(folder: str | Path) -> None:
    """Make the folder of a report, before a long evaluation.

    Raises:
        InputError: when nothing can be written there, and when it holds a file that a report would
            write over, but no report.
    """
    folder = Path(folder)
    ensure_writable(folder)
    found = [name for name in FILES if os.path.lexists(folder / name)]
    if found and not _is_report(folder):
        raise InputError(f"--report {folder}: {', '.join(found)} there is no report of eval.py, "
                         "and would be lost: name another folder")


def _is_report(folder: Path) -> bool:
    try:
        summary = parse_json((folder / SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(summary, dict) and summary.get("format") == FORMAT


def write_report(folder: str | Path, task: Task) -> None:
    """Write the page, the table and the summary. `check_folder` comes first."""
    folder = Path(folder)
    levels = figures.measure_levels(task.result.utterances)
    summary = summarise(task, levels)
    # the summary marks the folder as that of a report, so that a cut run can be repeated
    _write(folder / SUMMARY, json.dumps(summary, indent=1))
    write_csv(task.result, folder / TABLE, task.speakers)
    _write(folder / PAGE, render(task, summary, levels))


def summarise(task: Task, levels: Sequence[float | None]) -> dict:
    """All figures of a report, as they stand in summary.json.

    Args:
        task: what was evaluated.
        levels: (N,) dBFS of each scored utterance, None where unknown.
    """
    utterances = task.result.utterances
    speakers = [task.speakers[u.row] for u in utterances]
    named = list(task.speakers) != task.manifest.audio_paths
    overall = task.rates["WER"].percent
    values = {
        "by_length": [u.seconds for u in utterances],
        "by_loudness": levels,
        "by_speed": [u.errors.chars / u.seconds for u in utterances],
    }
    groups = {
        "by_speaker": figures.by_speaker(utterances, speakers, overall) if named else None,
        **{name: figures.by_value(utterances, speakers, own, overall)
           for name, own in values.items()},
    }
    texts = [(u.reference, u.hypothesis) for u in utterances]
    return {
        "format": FORMAT,
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "model": task.source,
        "manifest": str(task.manifest.path),
        "decoder": task.decoder,
        "utterances": len(utterances),
        "seconds": round(sum(u.seconds for u in utterances), 3),
        "without_error": sum(not u.errors.word_errors for u in utterances),
        "without_text": sum(not u.hypothesis and bool(u.reference) for u in utterances),
        "unreadable": [{"line": task.manifest.where(row),
                        "audio_path": task.manifest.audio_paths[row]}
                       for row in task.result.missing],
        **{name.lower(): asdict(rate) | {"errors": rate.errors}
           for name, rate in task.rates.items()},
        **{name: found and [asdict(group) for group in found] for name, found in groups.items()},
        "stands_out": {name: asdict(group) for name, found in groups.items()
                       if (group := figures.worst_group(found or [], overall))},
        "word_confusions": figures.confusions(texts, "word", SHOWN_CONFUSIONS),
        "letter_confusions": figures.confusions(texts, "character", SHOWN_CONFUSIONS),
        "calibration": figures.calibration(utterances),
    }


def render(task: Task, summary: dict, levels: Sequence[float | None]) -> str:
    """The page. It is self-contained: its policy forbids every request."""
    import jinja2  # imported late: only a report needs it

    here = Path(__file__).parent
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(here), autoescape=True,
                                     undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True)
    environment.filters["shorten"] = shorten
    script = (here / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    order = sorted(range(len(levels)), key=lambda i: figures.rank(task.result.utterances[i]))
    folder = os.path.commonpath([os.path.dirname(u.audio_path) for u in task.result.utterances])
    rows = [_row(task, i, levels[i], folder) for i in order[::-1][:SHOWN_ROWS]]
    return environment.get_template("page.html").render(
        summary=summary, rows=rows, folder=folder, chosen=_chosen(task, order, levels, folder),
        scale=figures.scale(summary), table=TABLE, script=script, script_hash=digest, **LIMITS,
    )


def shorten(text: str, length: int) -> str:
    """A text of at most `length` characters; what is cut away shows as an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _row(task: Task, index: int, level: float | None, folder: str) -> dict:
    utterance = task.result.utterances[index]
    return {
        "utterance": utterance,
        "name": os.path.relpath(utterance.audio_path, folder),
        "speaker": task.speakers[utterance.row],
        "level": level,
        "speed": utterance.errors.chars / utterance.seconds,
    }


def _chosen(
    task: Task, order: Sequence[int], levels: Sequence[float | None], folder: str
) -> list[dict]:
    """The utterances to look at: the worst, the median and the best, with recording and picture."""
    from tools.report.media import Media

    media = Media(task.model, MEDIA_CHARACTERS)
    found = []
    for title, chosen, pictures in figures.choose(order):
        entries = []
        for place, index in enumerate(chosen):
            row = _row(task, index, levels[index], folder)
            pairs = figures.edits(row["utterance"])
            media_of = media.of(row["utterance"], pairs, with_picture=place < pictures)
            entries.append({**row, "pairs": pairs, "media": media_of})
        found.append({"title": title, "entries": entries})
    return found


def _write(path: Path, text: str) -> None:
    """Write UTF-8; a byte of a file name that is none appears escaped."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "backslashreplace"))
