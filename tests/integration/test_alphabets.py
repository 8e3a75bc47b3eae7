"""Six alphabets from training to transcription, on speech of espeak-ng in each language."""

import csv
import json
import unicodedata
from pathlib import Path
from typing import NamedTuple

import pytest
import soundfile

import eval as evaluation_command
import export
import train
import transcribe
from data import espeak, verify_manifest

CPU = ["--device_target", "CPU"]
TINY = ["ModelConfig.hidden_size=4", "ModelConfig.hidden_layers=1", "ModelConfig.conv_channels=1",
        "ModelConfig.conv2_kernel=[3, 1]", "TrainingConfig.epochs=1", "DataConfig.val_manifest="]


class Language(NamedTuple):
    """Labels, and two transcripts: as somebody writes them, and as these labels write them."""

    voice: str
    labels: list[str]
    texts: tuple[str, str]
    references: tuple[str, str]


LANGUAGES = {
    "Russian": Language("ru", [*"АБВГДЕЁЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯ _"],
                        ("Съешь ещё", "е\u0308лка"), ("СЪЕШЬ ЕЩЁ", "ЁЛКА")),
    "Greek": Language("el", [*"_ αάβγδεέζηήθιίϊΐκλμνξοόπρσςτυύϋΰφχψωώ"],
                      ("Ο ΛΌΓΟΣ ΣΑΣ", "ται\u0308\u0301ζω"), ("ο λόγος σας", "ταΐζω")),
    # vowel signs, virama and nukta are labels; U+095C is ड with a nukta
    "Hindi": Language("hi", [*"_ कडतदनमयरस\u093c\u093e\u093f\u0941\u0947\u094d"],
                      ("नमस्ते  दुनिया", "स\u095cक"), ("नमस्ते दुनिया", "सड\u093cक")),
    "Chinese": Language("cmn", [*"_世你好界谢"], ("你好世界", "谢谢"), ("你好世界", "谢谢")),
    "German": Language("de", [*"ABCDEFGHIJKLMNOPQRSTUVWXYZ", "A\u0308", "O\u0308", "Ü", *"ẞ _"],
                       ("große Straße", "Äpfel"), ("GROẞE STRAẞE", "ÄPFEL")),
    "Turkish": Language("tr", [*"_ ABCÇDEFGĞHIİJKLMNOÖPRSŞTUÜVYZ"],
                        ("ısı iki", "Iğdır"), ("ISI İKİ", "IĞDIR")),
}


def write_corpus(folder: Path, language: Language) -> Path:
    """Write a recording for each transcript, the labels, and a manifest, which is returned."""
    for i, text in enumerate(language.texts):
        speech = espeak.Speech(unicodedata.normalize("NFC", text), f"{language.voice}+f2", rate=160,
                               pitch=50, pitch_range=50, volume=70, seed=1)
        soundfile.write(folder / f"{i}.wav", espeak.synthesize(speech), espeak.SAMPLE_RATE)
        (folder / f"{i}.txt").write_text(f"{text}\n", encoding="utf-8")
    (folder / "labels.json").write_text(json.dumps(language.labels), encoding="utf-8")
    (folder / "set.csv").write_text("0.wav,0.txt\n1.wav,1.txt\n")
    return folder / "set.csv"


@pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES)
def test_every_command_speaks_the_alphabet(language, tmp_path, capsys):
    manifest, labels = write_corpus(tmp_path, language), f"{tmp_path}/labels.json"
    assert verify_manifest.main([str(manifest), "--labels_path", labels]) == 0
    logs = f"TrainingConfig.log_dir={tmp_path}/logs"
    assert train.main([*CPU, *TINY, logs, f"CheckpointConfig.ckpt_path={tmp_path}/ckpt",
                       f"DataConfig.train_manifest={manifest}",
                       f"DataConfig.labels_path={labels}"]) == 0
    checkpoint = f"{tmp_path}/ckpt/DeepSpeech-last.ckpt"
    assert evaluation_command.main([*CPU, "--pretrain_ckpt", checkpoint, logs,
                                    f"DataConfig.test_manifest={manifest}"]) == 0
    table = (tmp_path / "logs" / "set_eval.csv").read_text(encoding="utf-8")
    scored = list(csv.DictReader(table.splitlines()))
    assert tuple(row["reference"] for row in scored) == language.references
    assert export.main([*CPU, "--pre_trained_model_path", checkpoint, "--file_format", "ONNX",
                        "--file_name", f"{tmp_path}/model"]) == 0
    stored = json.loads((tmp_path / "model.json").read_text(encoding="utf-8"))["labels"]
    assert stored == [unicodedata.normalize("NFC", label) for label in language.labels]
    capsys.readouterr()
    assert transcribe.main(["--pretrain_ckpt", f"{tmp_path}/model.onnx", f"{tmp_path}/0.wav",
                            f"{tmp_path}/1.wav"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [row["hypothesis"] for row in scored]
    assert any(lines) and set("".join(lines)) <= set(stored) - {"_"}
