"""The report: its figures against other programs, hostile names and texts, and a real browser."""

import base64
import csv
import html.parser
import io
import json
import math
import re
import shutil
import statistics
from collections import Counter
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile
from conftest import ROOT, model_that_says

import deepspeech2
import eval as evaluation_command
from deepspeech2.labels import Labels
from deepspeech2.metrics import count_errors
from deepspeech2.model import Model
from src import manifest as manifests
from src.config import load_config
from src.evaluation import Evaluation, ScoredUtterance, evaluate
from src.manifest import Manifest, write_manifest
from tools import report
from tools.report import figures

AN4 = str(ROOT / "deepspeech2" / "assets" / "an4.onnx")
# the first letter of the voice, train-00000-m1.wav: some voices count as one speaker
SPEAKER = "DataConfig.speaker_pattern=-([a-z])[^-/]*$"
SCRIPT = "<script>window.hacked=1</script>"


def run(manifest, folder, *options) -> int:
    return evaluation_command.main([
        "--pretrain_ckpt", AN4, "--report", str(folder), f"DataConfig.test_manifest={manifest}",
        f"TrainingConfig.log_dir={folder}/logs", *options])


@pytest.fixture(scope="module")
def folder(demo_corpus, tmp_path_factory):
    """The report of the AN4 model on 24 utterances of the demo corpus."""
    folder = tmp_path_factory.mktemp("report")
    assert run(demo_corpus / "demo_train_manifest.csv", folder, SPEAKER) == 0
    return folder


@pytest.fixture(scope="module")
def summary(folder) -> dict:
    return json.loads((folder / "summary.json").read_text())


@pytest.fixture(scope="module")
def rows(folder) -> list[dict]:
    return list(csv.DictReader((folder / "utterances.csv").read_text().splitlines()))


@pytest.fixture(scope="module")
def transcripts(demo_corpus) -> dict:
    """{path: (reference, transcript of the recogniser)}, without the recipe."""
    model = deepspeech2.load_model("an4")
    lines = csv.reader((demo_corpus / "demo_train_manifest.csv").open())
    return {audio: (Path(text).read_text().strip(), model.transcribe(audio))
            for audio, text in lines}


class Tables(html.parser.HTMLParser):
    """The text of every cell of every table of a page: tables[i][row][column]."""

    def __init__(self, page: str):
        super().__init__()
        self.tables, self.cell = [], None
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.cell = tag

    def handle_endtag(self, tag):
        if tag == self.cell:
            self.cell = None

    def handle_data(self, data):
        if self.cell:
            self.tables[-1][-1][-1] += data.replace("−", "-")


def body(page: str, *heads: str) -> list[list[str]]:
    """The rows of the table whose head begins with `heads`."""
    (found,) = (t for t in Tables(page).tables if tuple(t[0][: len(heads)]) == heads)
    return [[" ".join(cell.split()) for cell in row] for row in found[1:]]


# --- figures -------------------------------------------------------------------------------------


def test_totals_are_those_of_jiwer(summary, transcripts):
    pairs = [(reference, found.text) for reference, found in transcripts.values()]
    for name, unit in (("wer", str), ("cer", lambda text: " ".join(text.replace(" ", "")))):
        expected = jiwer.process_words([unit(a) for a, _ in pairs], [unit(b) for _, b in pairs])
        found = summary[name]
        edits = expected.substitutions + expected.deletions + expected.insertions
        assert found["errors"] == edits
        assert found["substitutions"] + found["deletions"] + found["insertions"] == edits
        assert found["total"] == edits - expected.insertions + expected.hits  # reference units
        assert found["percent"] == pytest.approx(100 * edits / found["total"])
        low, high = found["interval"]
        assert low < found["percent"] < high
    assert summary["without_error"] == sum(a == b for a, b in pairs)
    assert summary["seconds"] == pytest.approx(
        sum(soundfile.info(path).duration for path in transcripts), abs=0.01)


def test_speakers_are_sorted_and_add_up(summary, transcripts):
    errors, words = Counter(), Counter()
    for path, (reference, found) in transcripts.items():
        speaker = Path(path).stem.split("-")[2][0]
        words[speaker] += len(reference.split())
        errors[speaker] += count_errors(reference, found.text).word_errors
    found = summary["by_speaker"]
    assert {g["name"]: (g["errors"], g["words"]) for g in found} == {
        name: (errors[name], words[name]) for name in words}
    rates = [g["percent"] for g in found]
    assert rates == sorted(rates, reverse=True)
    assert all(g["interval"] is None for g in found if g["utterances"] == 1)


def test_groups_by_value(summary, transcripts):
    def level(path):
        samples, _ = soundfile.read(path)
        return 20 * math.log10(statistics.pstdev(samples, 0))
    values = {
        "by_length": lambda path: soundfile.info(path).duration,
        "by_loudness": level,
        "by_speed": lambda path: len(transcripts[path][0].replace(" ", "")) /
        soundfile.info(path).duration,
    }
    for name, value in values.items():
        known = {path: value(path) for path in transcripts}
        assert len(summary[name]) == 4  # of at least five utterances
        assert sum(g["utterances"] for g in summary[name]) == len(known)
        for group in summary[name]:
            inside = [path for path, v in known.items()
                      if group["low"] - 1e-6 <= v <= group["high"] + 1e-6]
            assert group["utterances"] == len(inside)
            assert group["errors"] == sum(
                count_errors(transcripts[p][0], transcripts[p][1].text).word_errors
                for p in inside)
        ends = [end for group in summary[name] for end in (group["low"], group["high"])]
        assert ends == sorted(ends)


def test_equal_values_stay_together():
    utterances = [scored(row, "A", "A") for row in range(30)]
    groups = figures.by_value(utterances, ["a"] * 30, [1.0] * 20 + [2.0] * 8 + [None] * 2, 0.0)
    assert [(g.low, g.high, g.utterances) for g in groups] == [(1, 1, 20), (2, 2, 8)]
    assert figures.by_value(utterances, ["a"] * 30, [None] * 30, 0.0) == []


def test_what_stands_out():
    """Of two speakers one makes all the errors. A few utterances show nothing."""
    for number, overall, expected in ((5, 25.0, ["bad"]), (5, 50.0, []), (4, 25.0, [])):
        utterances = [scored(row, "A B C D", "A B X X" if row < number else "A B C D")
                      for row in range(2 * number)]
        groups = figures.by_speaker(utterances, ["bad"] * number + ["good"] * number, overall)
        assert [g.name for g in groups if g.above] == expected
        worst = figures.worst_group(groups, overall)
        assert ([worst.name] if worst else []) == expected


def test_confusions():
    texts = [("A B - C", "A X - D C"), ("A B", "A X"), ("A -", "A")]
    found = figures.confusions(texts, "word", 10)
    assert [tuple(one.values()) for one in found] == [
        ("B", "X", 2, 2), ("", "D", 1, 0), ("-", "", 1, 2)]
    assert len(figures.confusions(texts, "word", 1)) == 1


def test_confidence_is_judged_as_by_hand(summary, transcripts):
    """AUC over all pairs of a right and a wrong word; the alignment is that of jiwer."""
    words = []  # (probability, right)
    for reference, transcript in transcripts.values():
        found = transcript.words
        right = [False] * len(found)
        for chunk in jiwer.process_words(reference, transcript.text or " ").alignments[0]:
            if chunk.type == "equal":
                for i in range(chunk.hyp_start_idx, chunk.hyp_end_idx):
                    right[i] = True
        words += [(word.probability, r) for word, r in zip(found, right, strict=True)]
    good, bad = ([p for p, r in words if r is wanted] for wanted in (True, False))
    wins = sum((a > b) + (a == b) / 2 for a in good for b in bad)
    calibration = summary["calibration"]
    assert calibration["words"] == len(words)
    assert calibration["auc"] == pytest.approx(wins / len(good) / len(bad), abs=0.01)
    for one in calibration["bins"]:
        inside = [r for p, r in words if one["low"] <= p < one["high"] or p == 1 == one["high"]]
        assert one["words"] == len(inside)
        assert one["low"] <= one["confidence"] <= one["high"]
    assert sum(one["words"] * one["right"] for one in calibration["bins"]) == pytest.approx(
        len(good), abs=1)


def test_confidence_where_there_is_nothing_to_judge():
    right = scored(0, "A B", "A B", confidences=(0.5, 1.0))
    found = figures.calibration([right])
    assert found["auc"] is None
    assert [one["words"] for one in found["bins"]] == [1, 1]
    assert figures.calibration([scored(0, "A", "A")]) is None
    assert figures.calibration([scored(0, "A", "", confidences=())]) is None


def test_chosen_utterances():
    """The worst come worst first; of faultless ones the longest is the best."""
    texts = [("A B", "A B"), ("A B C", "A B C"), ("A", "X"), ("A B", "A X"), ("AB C", "AB X")]
    utterances = [scored(row, *pair) for row, pair in enumerate(texts)]
    order = sorted(range(5), key=lambda row: figures.rank(utterances[row]))
    assert order == [1, 0, 4, 3, 2]
    assert [part[:2] for part in figures.choose(order)] == [("Worst", [2, 3, 4, 0, 1])]
    parts = figures.choose(range(20))
    assert [part[:2] for part in parts] == [
        ("Worst", [19, 18, 17, 16, 15, 14]), ("Median", [7, 8, 9]), ("Best", [0, 1, 2])]


# --- the page ------------------------------------------------------------------------------------


def test_the_page_shows_the_figures_of_the_summary(folder, summary, rows):
    page = (folder / "report.html").read_text()
    assert f"{summary['wer']['percent']:.2f} %" in page
    assert f"95 % interval {summary['cer']['interval'][0]:.2f} to" in page
    for heads, name in ((("Speaker", "WER, %"), "by_speaker"), (("Seconds", "WER, %"), "by_length"),
                        (("dBFS", "WER, %"), "by_loudness")):
        found = body(page, *heads)
        for row, group in zip(found, summary[name][: report.LIMITS["shown_speakers"]], strict=True):
            assert row[0].removesuffix(" above") == (
                group["name"] or f"{group['low']:.1f} to {group['high']:.1f}")
            assert row[1] == f"{group['percent']:.1f}"
            assert row[4].split()[0] == str(group["errors"])
    shown = body(page, "File", "Speaker")
    assert [row[0] for row in shown[:1]] == [
        Path(max(rows, key=lambda r: (int(r["word_errors"]) / max(1, int(r["words"])),
                                      int(r["char_errors"]) / max(1, int(r["chars"])),
                                      int(r["words"])))["audio_path"]).name]
    by_name = {Path(r["audio_path"]).name: r for r in rows}
    assert {row[0] for row in shown} == set(by_name)
    for row in shown:
        own = by_name[row[0]]
        assert (row[1], row[4], row[5]) == (own["speaker"], own["word_errors"], own["words"])
        assert row[9] == f"Reference: {own['reference']} Hypothesis: {own['hypothesis'] or '–'}"


def test_the_tables_are_those_of_the_evaluation(folder):
    table = folder / "logs" / "demo_train_manifest_eval.csv"
    assert (folder / "utterances.csv").read_bytes() == table.read_bytes()


def test_recordings_are_embedded_as_the_model_hears_them(folder, transcripts):
    page = (folder / "report.html").read_text()
    clips = [soundfile.read(io.BytesIO(base64.b64decode(data)), dtype="float32")
             for data in re.findall(r'src="data:audio/flac;base64,([^"]+)"', page)]
    assert len(clips) == 12
    originals = [soundfile.read(path, dtype="float32")[0] for path in transcripts]
    for samples, rate in clips:
        assert rate == 16000
        assert any(np.array_equal(samples, original) for original in originals)
    assert len(re.findall(r'src="data:image/png;base64,', page)) == 5


def test_a_second_report_takes_the_place_of_the_first(folder, demo_corpus, summary):
    (folder / "notes.txt").write_text("mine")
    assert run(demo_corpus / "demo_val_manifest.csv", folder) == 0
    second = json.loads((folder / "summary.json").read_text())
    assert second["utterances"] == 6 and second["by_speaker"] is None
    assert "<code>DataConfig.speaker_pattern</code> finds" in (folder / "report.html").read_text()
    assert (folder / "notes.txt").read_text() == "mine"


# --- bad input -----------------------------------------------------------------------------------


def test_folders_that_are_refused(demo_corpus, tmp_path, capsys):
    manifest = demo_corpus / "demo_val_manifest.csv"
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "summary.json").write_text('{"format": "another"}')
    for name, words in (("file", "file: cannot write there"), ("file/in", "in: cannot write there"),
                        ("full", "full: summary.json there is no report of eval.py")):
        assert run(manifest, tmp_path / name, f"TrainingConfig.log_dir={tmp_path}/logs") == 2
        assert words in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["summary.json"]
    assert not list((tmp_path / "logs").iterdir())


def test_an_empty_manifest_is_refused(tmp_path, capsys):
    (tmp_path / "empty.csv").write_text("")
    assert run(tmp_path / "empty.csv", tmp_path / "report") == 2
    assert "empty.csv: the manifest is empty" in capsys.readouterr().err
    assert not (tmp_path / "report" / "report.html").exists()


def test_utterances_that_cannot_be_read_are_named(demo_corpus, tmp_path, monkeypatch):
    wavs = sorted((demo_corpus / "demo_dataset" / "test" / "wav").iterdir())[:2]
    shutil.copy(wavs[1], tmp_path / "bad.wav")
    (tmp_path / "a.txt").write_text("GO\n")
    (tmp_path / "m.csv").write_text(f"{wavs[0]},a.txt\nbad.wav,a.txt\n")
    real = manifests.read_manifest

    def read(*arguments, **options):
        found = real(*arguments, **options)
        (tmp_path / "bad.wav").write_bytes(b"")
        return found

    monkeypatch.setattr(manifests, "read_manifest", read)
    assert run(tmp_path / "m.csv", tmp_path / "report") == 2
    found = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert found["unreadable"] == [{"line": f"{tmp_path}/m.csv:2",
                                    "audio_path": f"{tmp_path}/bad.wav"}]
    page = (tmp_path / "report" / "report.html").read_text()
    assert "<b>1 utterance could not be read</b>" in page and f"{tmp_path}/bad.wav" in page


def test_one_silent_utterance_without_a_reference(tmp_path, write_wav):
    write_wav(tmp_path / "an1-one-b.wav", seconds=1, frequency=0)
    (tmp_path / "a.txt").write_text("\n")
    (tmp_path / "m.csv").write_text("an1-one-b.wav,a.txt\n")
    assert run(tmp_path / "m.csv", tmp_path / "report",
               "DataConfig.speaker_pattern=an1-([a-z]+)-") == 0
    found = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert found["wer"]["total"] == 0 and found["wer"]["interval"] is None
    assert [g["name"] for g in found["by_speaker"]] == ["one"]
    assert [g["low"] for g in found["by_loudness"]] == [figures.SILENCE]
    page = (tmp_path / "report" / "report.html").read_text()
    assert "no interval: there are no reference words" in page


# --- hostile names and texts ---------------------------------------------------------------------


def scored(row: int, reference: str, hypothesis: str, path: str = "", **options):
    """A scored utterance of one second."""
    counts = count_errors(reference, hypothesis)
    return ScoredUtterance(row, path, reference, hypothesis, counts, 1.0, None, **options)


def model_with_letters(text: str, others: str) -> Model:
    """A model that hears `text`, and whose labels are the letters of both texts."""
    return model_that_says(text, Labels(["_", *sorted({*text, *others, " "} - {"_"})]))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory, write_wav) -> Path:
    """The page of a report in which file names, speakers, texts and the model's name are HTML."""
    folder = tmp_path_factory.mktemp("hostile")
    model = model_with_letters(f"$x$ {SCRIPT}", "abcdefghijklmnopqrstuvwxyz'\"&<>/= 0123456789;")
    rows = []
    for number in range(8):
        audio = folder / f"<img src=x onerror=hacked=1>&amp;\"'-<b>{number % 2}<b>-{number}.wav"
        write_wav(audio, seconds=2)
        text = audio.with_suffix(".txt")
        text.write_text(f"</script>{SCRIPT} \"'&amp;" + " word" * number if number else "a b")
        rows.append((audio, text))
    manifest, problems = write_manifest(folder / "m.csv", rows, model.labels)
    assert not problems
    result = evaluate(model, manifest, load_config(), keep_confidences=True)
    speakers = [f"<b>{row % 2}</b>" for row in range(8)]
    task = report.Task(result, result.rates(speakers), manifest, speakers, model,
                       f"<img src=x onerror=hacked=1>{SCRIPT}", f"<i>{SCRIPT}")
    report.check_folder(folder / "report")
    report.write_report(folder / "report", task)
    return folder / "report" / "report.html"


class Tags(html.parser.HTMLParser):
    """The tags of a page and the names of their attributes."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.attributes = Counter(), Counter()
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        self.attributes.update(name for name, _ in attributes)


def test_texts_stay_texts(hostile, folder):
    plain, attacked = (Tags((path).read_text()) for path in (folder / "report.html", hostile))
    assert attacked.tags["script"] == plain.tags["script"] == 1
    assert set(attacked.tags) <= set(plain.tags) and set(attacked.attributes) <= set(
        plain.attributes)
    assert not [name for name in plain.attributes if name.startswith("on")]


def test_nothing_is_loaded_from_elsewhere(hostile, folder):
    for page in (hostile, folder / "report.html"):
        found = re.findall(r'\b(?:src|href|action|poster)="([^"]*)"', page.read_text())
        assert {address.split(":")[0] if address[0] != "#" else "#" for address in found} == {
            "data", "#"}
        assert "url(" not in page.read_text() and "@import" not in page.read_text()


def test_large_sets_have_a_bounded_page(tmp_path):
    """Long texts and names of characters that HTML must escape, and noise, which FLAC cannot."""
    noise = np.random.default_rng(0).uniform(-1, 1, 40 * 16000)
    path = tmp_path / ("\"&<" * 60 + ".wav")
    soundfile.write(path, noise, 16000)
    rows = 520
    text = " ".join(["\"&<'>" * 10] * 10)
    heard = {row for start in (0, 250, 500) for row in range(start, start + 20)}
    utterances = [scored(row, text, f"{text} {row}", str(path) if row in heard else "/gone.wav",
                         confidences=(0.5,) * 11) for row in range(rows)]
    names = [f"{row % 30}{'&' * 200}" for row in range(rows)]
    known = np.full(rows, 1)
    manifest = Manifest(tmp_path / "m.csv", known, [str(path)] * rows, [""] * rows, known, known,
                        known, known)
    missing = list(range(rows))
    result = Evaluation(utterances, missing)
    model = model_with_letters("a", text)
    task = report.Task(result, result.rates(names), manifest, names, model, "&" * 999, "greedy")
    report.write_report(tmp_path / "report", task)
    page = (tmp_path / "report" / "report.html").read_text()
    assert len(page.encode()) < report.PAGE_BYTES
    assert len(body(page, "File", "Speaker")) == report.SHOWN_ROWS
    assert "The 500 worst of 520 utterances" in page
    assert "There is no room left in the page" in page and "data:audio" in page
    assert "The recording ends here after 30 s" in page
    assert len((tmp_path / "report" / "utterances.csv").read_text().splitlines()) == rows + 1
    found = json.loads((tmp_path / "report" / "summary.json").read_text())
    assert len(found["by_speaker"]) == 30 and len(found["unreadable"]) == rows


# --- in a browser --------------------------------------------------------------------------------


@pytest.fixture
def opened(browser):
    """Opens pages: `opened(path, **options)`. No request, message or error may come from them."""
    contexts, troubles = [], []

    def open_page(path: Path, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: troubles.append(request.url)
                if request.url != path.as_uri() and not request.url.startswith("data:") else None)
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: troubles.append(dialog.message))
        page.goto(path.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert troubles == []


def column(page, number: int) -> list[str]:
    """The visible cells of a column of the table of utterances."""
    rows = page.locator("#utterances tbody tr:visible")
    return [row.locator("th, td").nth(number).inner_text() for row in rows.all()]


def test_the_table_is_sorted_and_filtered(opened, hostile):
    page = opened(hostile)
    words = page.get_by_role("button", name="Words")
    words.click()
    found = [int(text) for text in column(page, 5)]
    assert found == sorted(found, reverse=True) and len(set(found)) > 1
    words.focus()
    page.keyboard.press("Enter")
    assert [int(text) for text in column(page, 5)] == sorted(found)
    assert page.locator("th[aria-sort=ascending]").inner_text().startswith("Words")
    page.get_by_label("Show rows that contain").fill("A B")
    assert len(column(page, 0)) == 1
    assert page.get_by_role("status").inner_text() == "1 of 8"
    page.get_by_label("Show rows that contain").fill("")
    assert len(column(page, 0)) == 8


def test_hostile_texts_do_nothing_in_a_browser(opened, hostile):
    page = opened(hostile)
    assert page.evaluate("window.hacked === undefined")
    assert page.locator("h4").first.inner_text().startswith("<img src=x onerror=hacked=1>&amp;\"'-")
    assert SCRIPT in page.locator("#utterances tbody").inner_text()


def test_the_policy_of_the_page_stops_what_is_not_ours(browser, hostile):
    page = browser.new_page()
    page.goto(hostile.as_uri())
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "window.hacked = 1";
        document.body.append(script);
    }""")
    assert page.evaluate("window.hacked === undefined")
    assert page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'stopped')") == (
        "stopped")
    page.close()


def test_recordings_play_and_pictures_show(opened, hostile):
    page = opened(hostile)
    seconds = page.evaluate("""() => Promise.all([...document.querySelectorAll("audio")].map(
        (audio) => new Promise((done) => {
            audio.onloadedmetadata = () => done(audio.duration);
            audio.onerror = () => done(-1);
            audio.load();
        })))""")
    assert seconds == pytest.approx([2.0] * 8, abs=0.01)
    pictures = page.locator("img").all()
    assert len(pictures) == 4
    for picture in pictures:
        assert picture.evaluate("image => image.naturalWidth") > 300
        assert "Words: " in picture.get_attribute("alt")


def test_phone_dark_mode_and_no_script(opened, hostile):
    phone = opened(hostile, viewport={"width": 360, "height": 740})
    assert phone.evaluate("document.documentElement.scrollWidth") == 360
    colours = {scheme: opened(hostile, color_scheme=scheme).evaluate(
        "getComputedStyle(document.body).backgroundColor") for scheme in ("light", "dark")}
    assert colours["light"] == "rgb(255, 255, 255)" != colours["dark"]
    plain = opened(hostile, java_script_enabled=False)
    assert len(column(plain, 0)) == 8
    assert not plain.get_by_label("Show rows that contain").is_visible()
