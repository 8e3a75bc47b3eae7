"""The tables of README.md against the parsers and the configuration."""

import argparse
import dataclasses
import re

import pytest
import yaml
from conftest import ROOT

import eval as evaluation_command
import export
import train
import transcribe
from src.config import Config

README = (ROOT / "README.md").read_text(encoding="utf-8")


def table(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    section = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", README, re.MULTILINE | re.DOTALL)[1]
    rows = [line.strip().strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in row] for row in rows[2:]]


def default_of(action: argparse.Action) -> str:
    if action.required:
        return "required"
    if action.default is None:    # the configuration decides; then the help says what it decides
        return re.search(r"default is (\w+)", action.help)[1]
    return repr(action.default) if action.default == "" else str(action.default)


@pytest.mark.parametrize(("heading", "command"), [
    ("Training", train), ("Evaluation", evaluation_command), ("Export", export), ("Transcription", transcribe)])
def test_option_tables_equal_the_parsers(heading, command):
    options = {action.option_strings[-1]: default_of(action) for action in command.parser()._actions
               if action.option_strings and action.dest != "help"}
    assert {row[0]: row[-1] for row in table(heading)} == options


def settings(group, prefix: str = "") -> dict[str, object]:
    result = {}
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if dataclasses.is_dataclass(value):
            result |= settings(value, f"{prefix}{field.name}.")
        elif field.name != "explicit":
            result[prefix + field.name] = list(value) if isinstance(value, tuple) else value
    return result


def test_the_settings_table_equals_the_configuration():
    found, group = {}, ""
    for row in table("Options and Parameters"):
        group = row[0] or group
        text = row[-1]
        expected = settings(Config()).get(f"{group}.{row[1]}")
        value = text.strip("'") if isinstance(expected, str) else yaml.safe_load(text)
        found[f"{group}.{row[1]}"] = float(value) if isinstance(expected, float) else value
    assert found == settings(Config())


def test_every_path_that_the_readme_names_exists():
    names = set(re.findall(r"\b(?:scripts/\w+\.sh|configs/\w+\.yaml|(?:src|data)/\w+\.py)\b", README))
    assert len(names) > 8
    assert not [name for name in names if not (ROOT / name).exists()]
    modules = set(re.findall(r"python -m (data\.\w+)", README))
    assert modules and not [m for m in modules if not (ROOT / (m.replace(".", "/") + ".py")).exists()]
