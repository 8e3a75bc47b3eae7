"""README.md and the pages of docs/ against the parsers, the configuration and the files."""

import argparse
import dataclasses
import importlib
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from conftest import ROOT

import align
import deepspeech2.cli
import eval as evaluation_command
import export
import train
import transcribe
from deepspeech2 import commands
from src.config import Config, load_config

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
OTHERS = ("CONTRIBUTING.md", "CHANGELOG.md", "pretrained/README.md")
ALL_PAGES = [*PAGES, *(ROOT / name for name in OTHERS)]
PACKAGES = ("deepspeech2", "deepspeech_pytorch", "src", "data", "tools", "benchmarks")
FOLDERS = (*PACKAGES, "configs", "scripts", "docs", "tests", "pretrained")
# where a file may lie that a page names without its folder
NEARBY = (".", "deepspeech2/decoding", "deepspeech_pytorch")
PLACEHOLDER = "CHANGE"  # in docs/experiments.md

SUBCOMMANDS = next(
    action
    for action in deepspeech2.cli.parser()._actions
    if isinstance(action, argparse._SubParsersAction)
).choices
PARSERS = {
    "train.py": train.parser(),
    "eval.py": evaluation_command.parser(),
    "export.py": export.parser(),
    "transcribe.py": transcribe.parser(),
    "align.py": align.parser(),
    **{f"deepspeech2 {name}": parser for name, parser in SUBCOMMANDS.items()},
}


def each(pages: list[Path]):
    """Run a test for each page, named by its path."""
    names = [page.relative_to(ROOT).as_posix() for page in pages]
    return pytest.mark.parametrize("page", pages, ids=names)


def read(path: str | Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    """The contents of the page's code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", read(page), re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```", "", read(page), flags=re.MULTILINE | re.DOTALL)


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of the rows of the first table below a heading."""
    pattern = rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)"
    section = re.search(pattern, read(page), re.MULTILINE | re.DOTALL)[1]
    rows = [line[1:-1].split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().removeprefix("`").removesuffix("`") for cell in row] for row in rows[2:]]


# --- options -------------------------------------------------------------------------------------


def default_of(action: argparse.Action) -> str:
    if action.required:
        return "required"
    if action.default is None:  # the configuration decides; then the help says what it decides
        return re.search(r"default is (\w+)", action.help)[1]
    return repr(action.default) if action.default == "" else str(action.default)


@pytest.mark.parametrize("command", PARSERS)
def test_option_tables_equal_the_parsers(command):
    options = [
        [action.option_strings[-1], default_of(action)]
        for action in PARSERS[command]._actions
        if action.option_strings and action.dest != "help"
    ]
    assert [[row[0], row[-1]] for row in table("docs/commands.md", command)] == options


def test_every_script_and_every_module_that_is_a_command_is_listed():
    cells = [row[0] for heading in ("Scripts", "Preparation and tools")
             for row in table("docs/commands.md", heading)]
    listed = [re.match(r"(?:ba)?sh scripts/(\S+)|python -m (\S+)", cell) for cell in cells]
    modules = [path for name in ("data", "tools") for path in (ROOT / name).glob("*.py")]
    commands = {f"{path.parent.name}.{path.stem}" for path in modules if "__main__" in read(path)}
    scripts = {path.name for path in (ROOT / "scripts").glob("*.sh")} - {"common.sh"}
    assert {match[1] or match[2] for match in listed} == commands | scripts


# --- settings ------------------------------------------------------------------------------------


def settings(group, prefix: str = "") -> dict[str, dict[str, object]]:
    """{group: {field: default}}, in the order of the configuration."""
    result: dict[str, dict[str, object]] = {}
    for field in dataclasses.fields(group):
        value = getattr(group, field.name)
        if dataclasses.is_dataclass(value):
            result |= settings(value, f"{prefix}{field.name}.")
        elif field.name != "explicit":
            result.setdefault(prefix[:-1], {})[field.name] = value
    return result


def parsed(text: str, like: object) -> object:
    """A default as a table writes it, in the type that YAML gives it."""
    if isinstance(like, str):
        return "" if text == "''" else text
    value = yaml.safe_load(text)
    if isinstance(value, str) and isinstance(like, float):
        value = float(value)  # YAML takes 1e-05 for a text
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize("group", settings(Config()))
def test_settings_tables_equal_the_configuration(group):
    defaults = settings(Config())[group]
    rows = table("docs/settings.md", group)
    assert [row[0] for row in rows] == list(defaults)
    found = {row[0]: parsed(row[-1], defaults[row[0]]) for row in rows}
    assert repr(found) == repr(defaults)  # True is not 1, and 1 not 1.0


def test_the_settings_page_has_the_groups_and_no_others():
    headings = re.findall(r"^## (.+)$", read("docs/settings.md"), re.MULTILINE)
    assert headings == list(settings(Config()))


# --- commands and examples -----------------------------------------------------------------------


def command_lines(page: Path) -> list[list[str]]:
    """The words of every line in the page's shell blocks."""
    text = "\n".join(blocks(page, "shell")).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [[word for word in words if word != PLACEHOLDER] for words in lines if words]


def command_of(words: list[str]) -> tuple[str, list[str]]:
    """The module and the arguments of a command line; no module where it is no command of ours."""
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    if words[0] in ("sh", "bash"):
        assert (ROOT / words[1]).is_file()
        return "", words[2:]
    if words[0] == "deepspeech2":
        return "deepspeech2.cli", words[1:]
    if words[:2] == ["python", "-m"]:
        name = "deepspeech2.cli" if words[2] == "deepspeech2" else words[2]
        return name if name.split(".")[0] in ("deepspeech2", "data", "tools") else "", words[3:]
    return words[1].removesuffix(".py") if words[0] == "python" else "", words[2:]


@each(ALL_PAGES)
def test_every_command_line_is_accepted(page, monkeypatch):
    monkeypatch.setattr(commands, "run", lambda command: 0)  # options are parsed, nothing is done
    for words in command_lines(page):
        module, arguments = command_of(words)
        assert not module or importlib.import_module(module).main(arguments) == 0
        config = dict(zip(arguments, arguments[1:], strict=False)).get("--config", "")
        changes = [word for word in arguments if re.match(r"\w+Config\.", word)]
        load_config(config and ROOT / config, changes)


def test_the_command_lines_are_found():
    modules = {command_of(words)[0] for page in PAGES for words in command_lines(page)}
    assert modules > {"train", "eval", "export", "transcribe", "deepspeech2.cli", "data.an4"}


@each([page for page in PAGES if blocks(page, "python")])
def test_every_python_example_runs(page, tmp_path, monkeypatch, capsys):
    noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", noise, 16000)
    monkeypatch.chdir(tmp_path)
    for code in blocks(page, "python"):
        exec(compile(code, page.name, "exec"), {})
        assert capsys.readouterr().out


# --- files, modules and links --------------------------------------------------------------------


@each(ALL_PAGES)
def test_every_file_that_a_page_names_exists(page):
    folders = "|".join(FOLDERS)
    named = rf"(?:{folders})/[\w./]*?\.(?:py|sh|yaml|md|txt|png|ckpt)|\w+\.py"
    names = re.findall(rf"(?<![\w/.-])(?:{named})\b", read(page))
    names += re.findall(rf"`((?:{folders})(?:/\w+)*/)`", read(page))
    places = [page.parent, *(ROOT / place for place in NEARBY)]
    assert not [name for name in names if not any((place / name).exists() for place in places)]


@each(ALL_PAGES)
def test_every_module_that_a_page_names_exists(page):
    dotted = rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+"
    names = re.findall(rf"(?:python -m |`)({dotted})(?=[` \n])", read(page))
    assert not [name for name in names if not names_something(name)]


def names_something(dotted: str) -> bool:
    """Whether there is a module of that name, or a class or function in a module or a package."""
    *parents, last = dotted.split(".")
    folder = ROOT.joinpath(*parents)
    if (folder / f"{last}.py").is_file() or (folder / last / "__init__.py").is_file():
        return True
    module, package = folder.with_suffix(".py"), folder / "__init__.py"
    if package.is_file():
        return f'"{last}",' in read(package)  # in __all__
    definition = rf"^(?:def|class) {last}\b"
    return module.is_file() and bool(re.search(definition, read(module), re.MULTILINE))


def test_the_map_has_every_folder():
    assert {path.parent.name for path in ROOT.glob("*/__init__.py")} <= set(FOLDERS)
    assert set(re.findall(r"`(\w+)/`", read(README))) >= set(FOLDERS)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> list[tuple[Path, str]]:
    """The files and anchors that a page's links and pictures within the repository lead to."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    parts = [target.partition("#") for target in targets if "://" not in target]
    folder = page.parent
    return [(Path(os.path.normpath(folder / name)) if name else page, a) for name, _, a in parts]


@each(ALL_PAGES)
def test_every_link_leads_somewhere(page):
    for path, anchor in links(page):
        assert path.exists()
        assert not anchor or anchor in anchors(path), f"{path}#{anchor}"


def test_the_readme_is_short_and_leads_to_every_page():
    assert len(read(README).splitlines()) <= 200
    assert {path for path, _ in links(README)} >= set(PAGES) - {README}


def test_the_pages_that_programs_name_exist():
    folders = ("src", "deepspeech2", "data", "tools", "scripts", "configs")
    programs = [path for name in folders for path in (ROOT / name).rglob("*")
                if path.suffix in (".py", ".sh", ".yaml")]
    names = {name for path in programs for name in re.findall(r"docs/\w+\.md", read(path))}
    assert names and not [name for name in names if not (ROOT / name).is_file()]
