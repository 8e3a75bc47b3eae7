"""The shell scripts as real processes: usage, what they run, exit codes, logs, signals."""

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.name for path in (ROOT / "scripts").glob("*.sh") if path.name != "common.sh")
LAUNCH = [name for name in SCRIPTS if name.startswith("run_") and name != "run_tests.sh"]
PACKAGES = ("src", "data", "tools", "deepspeech2", "deepspeech_pytorch")

# Says what it was given, and ends as FAKE_EXIT says, or, with FAKE_EXIT=wait, as the first signal
# asks.
FAKE_PYTHON = """#!/bin/bash
echo "run: $PWD: gpu=${CUDA_VISIBLE_DEVICES-}: $(printf '<%s>' "$@")"
trap 'echo told TERM; exit 5' TERM
trap 'echo told INT; exit 6' INT
if [ "$FAKE_EXIT" = wait ]; then
    echo ready
    while :; do sleep 0.05; done
fi
exit "$FAKE_EXIT"
"""


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def project(tmp_path) -> Path:
    """A copy of the project to run scripts in, with a space in its path; packages are links."""
    root = tmp_path / "the project"
    shutil.copytree(ROOT / "scripts", root / "scripts")
    for name in (*PACKAGES, "configs"):
        (root / name).symlink_to(ROOT / name)
    for path in [*ROOT.glob("*.py"), *ROOT.glob("requirements*.txt"), ROOT / "labels.json"]:
        shutil.copy(path, root)
    return root


@pytest.fixture
def fake(tmp_path) -> Path:
    return executable(tmp_path / "fake python", FAKE_PYTHON)


def start(script: Path, *arguments: str, shell: str = "sh", python: Path | str = sys.executable,
          **options):
    """A script as a process, environment variables among `options`; its output in one text pipe."""
    variables = {name: options.pop(name) for name in list(options) if name.isupper()}
    clean = {name: value for name, value in os.environ.items()
             if name not in ("CUDA_VISIBLE_DEVICES", "DS2_PYTHON")}
    return subprocess.Popen([shell, str(script), *arguments],
                            env=clean | {"DS2_PYTHON": str(python)} | variables,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True,
                            start_new_session=True, preexec_fn=answer_signals, **options)


def answer_signals() -> None:
    """In the background, tests ignore SIGINT and SIGHUP, and a script would inherit that."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def run(script: Path, *arguments: str, **options) -> tuple[int, str]:
    """Exit code and output of a script."""
    process = start(script, *arguments, **options)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def the_log(project: Path) -> str:
    """The content of the one log file."""
    (path,) = (project / "logs").glob("*.log")
    return path.read_text()


# Usage

@pytest.mark.parametrize("name", [*SCRIPTS, "common.sh"])
def test_syntax(name):
    subprocess.run(["bash", "-n", ROOT / "scripts" / name], check=True)


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_through_any_shell(name):
    texts = [run(ROOT / "scripts" / name, option, shell=shell)
             for shell, option in (("sh", "--help"), ("bash", "-h"))]
    assert texts[0] == texts[1]
    code, text = texts[0]
    assert code == 0
    assert re.match(rf"usage: (ba)?sh scripts/{re.escape(name)}( |\n)", text)


@pytest.mark.parametrize(("name", "arguments", "variables", "message"), [
    ("run_standalone_train_cpu.sh", ["nonsense"], {}, "unexpected argument 'nonsense'"),
    ("run_standalone_train_gpu.sh", ["first"], {}, "DEVICE_ID must be a whole number, not 'first'"),
    ("run_eval_gpu.sh", ["model.ckpt"], {}, "DEVICE_ID must be a whole number, not 'model.ckpt'"),
    ("run_export_mindir.sh", [], {}, "PATH_CHECKPOINT is missing"),
    ("run_export_mindir.sh", ["--batch_size", "1"], {}, "PATH_CHECKPOINT is missing"),
    ("run_distribute_train_gpu.sh", ["8"], {}, "unexpected argument '8'"),
    ("quick_start.sh", ["nonsense"], {}, "'nonsense' is not of the form GROUP.FIELD=VALUE"),
    ("train_an4.sh", ["an4", "--resume"], {}, "'--resume' is not of the form GROUP.FIELD=VALUE"),
    ("train_english.sh", [], {}, "SOURCE is missing"),
    ("setup_env.sh", ["--prod"], {}, "unexpected arguments: --prod"),
])
def test_wrong_usage(project, fake, name, arguments, variables, message):
    code, output = run(project / "scripts" / name, *arguments, python=fake, FAKE_EXIT="0",
                       **variables)
    assert code == 2
    assert output.startswith("usage: ")
    assert message in output.splitlines()[-1]
    assert not (project / "logs").exists()


# What is run, and how it ends

@pytest.mark.parametrize(("name", "arguments", "gpu", "command"), [
    ("run_standalone_train_cpu.sh", [], "", "<train.py><--device_target><CPU>"),
    ("run_standalone_train_cpu.sh", ["--config", "a b.yaml"], "",
     "<train.py><--device_target><CPU><--config><a b.yaml>"),
    ("run_standalone_train_gpu.sh", [], "0", "<train.py><--device_target><GPU>"),
    ("run_standalone_train_gpu.sh", ["3", "TrainingConfig.epochs=1"], "3",
     "<train.py><--device_target><GPU><TrainingConfig.epochs=1>"),
    ("run_eval_cpu.sh", ["x.ckpt"], "", "<eval.py><--device_target><CPU><--pretrain_ckpt><x.ckpt>"),
    ("run_eval_cpu.sh", ["LMConfig.alpha=1"], "",
     "<eval.py><--device_target><CPU><--pretrain_ckpt><><LMConfig.alpha=1>"),
    ("run_eval_gpu.sh", ["2", "x.mindir", "--config", "c.yaml"], "2",
     "<eval.py><--device_target><GPU><--pretrain_ckpt><x.mindir><--config><c.yaml>"),
    ("run_export_mindir.sh", ["x.ckpt"], "",
     "<export.py><--device_target><CPU><--pre_trained_model_path><x.ckpt><--file_name><deepspeech2>"),
    ("run_export_mindir.sh", ["x.ckpt", "out", "--batch_size", "1"], "",
     "<export.py><--device_target><CPU><--pre_trained_model_path><x.ckpt><--file_name><out><--batch_size><1>"),
])
def test_command_and_exit_code(project, fake, name, arguments, gpu, command):
    code, output = run(project / "scripts" / name, *arguments, python=fake, FAKE_EXIT="7",
                       cwd=project)
    assert code == 7
    assert f"run: {project}: gpu={gpu}: {command}\n" in output
    assert the_log(project) == output  # the whole output, its own name included
    assert re.search(r"log file: (\S.*\.log)\n", output)[1].startswith(f"{project}/logs/")


def test_jobs_of_one_second_have_logs_of_their_own(project, fake, tmp_path):
    executable(tmp_path / "date", "#!/bin/sh\necho 20260101-000000\n")
    script, path = project / "scripts" / "run_eval_cpu.sh", f"{tmp_path}:{os.environ['PATH']}"
    outputs = {run(script, model, python=fake, FAKE_EXIT="0", PATH=path)[1] for model in "abc"}
    assert outputs == {path.read_text() for path in (project / "logs").glob("*.log")}
    assert len(outputs) == 3


@pytest.mark.parametrize(("name", "arguments", "found"), [
    ("run_eval_cpu.sh", ["a.ckpt"], "<--pretrain_ckpt><{}/a.ckpt>"),
    ("run_standalone_train_cpu.sh", ["--config", "a b.yaml"], "<--config><{}/a b.yaml>"),
    ("run_standalone_train_cpu.sh", ["--config=a b.yaml", "--resume", "a.ckpt"],
     "<--config={0}/a b.yaml><--resume><{0}/a.ckpt>"),
    ("run_distribute_train_cpu.sh", ["--config", "configs/an4.yaml", "--resume", "auto"],
     "<--config><configs/an4.yaml><--resume><auto>"),
])
def test_paths_of_the_caller(project, fake, tmp_path, name, arguments, found):
    """A script finds the project, and files that options name and a Python from the caller's."""
    (tmp_path / "a.ckpt").touch()
    (tmp_path / "a b.yaml").touch()
    code, output = run(Path(os.path.relpath(project, tmp_path)) / "scripts" / name,
                       *arguments, cwd=tmp_path, python="./fake python", FAKE_EXIT="0")
    assert code == 0
    assert f"== relative paths in settings start at {project}\n" in output
    assert re.search(rf"run: {project}: gpu=: .*{re.escape(found.format(tmp_path))}\n", output)


def test_missing_python(project):
    code, output = run(project / "scripts" / "run_eval_cpu.sh", "x.ckpt", python="no-such-python")
    assert (code, output) == (2, "error: DS2_PYTHON=no-such-python is not a program\n")


def test_python_without_mindspore(project, tmp_path):
    executable(tmp_path / "python3", "#!/bin/sh\nexit 1\n")
    code, output = run(project / "scripts" / "run_eval_cpu.sh", "x.ckpt", python="",
                       PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert code == 2
    assert output == (f"error: {tmp_path}/python3 has no MindSpore; run: "
                      "bash scripts/setup_env.sh (or set DS2_PYTHON)\n")


@pytest.mark.parametrize("unfinished", [True, False])
def test_an_environment_that_is_not_finished(project, unfinished):
    """Set-up was stopped while it installed, or the environment is somebody's own and empty."""
    binaries = project / ".venv/bin"
    binaries.mkdir(parents=True)
    executable(binaries / "python", "#!/bin/sh\nexit 1\n")
    if unfinished:
        (project / ".venv/ds2-unfinished").touch()
    code, output = run(project / "scripts" / "run_eval_cpu.sh", "x.ckpt", python="")
    assert code == 2
    assert output == (
        f"error: {project}/.venv is not finished; run: bash scripts/setup_env.sh\n" if unfinished
        else f"error: {binaries}/python has no MindSpore; run: bash scripts/setup_env.sh (or set "
             "DS2_PYTHON)\n")


def test_evaluation_of_a_missing_checkpoint(project):
    code, output = run(project / "scripts" / "run_eval_cpu.sh", "missing.ckpt")
    assert code == 2
    assert re.search(r"^error: .*missing\.ckpt", the_log(project), re.M)
    assert "Traceback" not in output


@pytest.mark.parametrize(("name", "arguments"),
                         [("run_standalone_train_gpu.sh", []), ("run_eval_gpu.sh", ["x.ckpt"])])
def test_no_gpu(project, name, arguments):
    # no machine has a GPU of that number
    code, output = run(project / "scripts" / name, "99", *arguments)
    assert code == 2
    assert re.search(r"^error: --device_target GPU: MindSpore \S+ finds no usable GPU here", output,
                     re.M)
    assert "Traceback" not in output


def test_a_port_that_is_in_use_is_refused_at_once(project):
    with socket.socket() as other:
        other.bind(("", 0))
        port = str(other.getsockname()[1])
        code, output = run(project / "scripts" / "run_distribute_train_cpu.sh", MASTER_PORT=port)
    assert code == 2
    assert output.endswith(f"error: MASTER_PORT={port} is in use here: choose another\n")
    assert not (project / "logs").exists()


def test_distributed_failure_is_shown(project):
    """What the processes say about their ends stands at the end of the output, once."""
    code, output = run(project / "scripts" / "run_distribute_train_cpu.sh", "--config",
                       "missing.yaml", RANK_SIZE="2")
    assert code == 2
    *_, last, message = output.splitlines()
    assert re.fullmatch(r"process [01](, process [01])?: error: missing.yaml: .*", message)
    assert last.startswith(f"== exit code {code}, log file: {project}/logs/distribute_train_cpu-")


@pytest.mark.parametrize(("number", "told", "code"), [
    (signal.SIGTERM, "TERM", 5), (signal.SIGHUP, "TERM", 5), (signal.SIGUSR1, "TERM", 5),
    (signal.SIGINT, "INT", 6)])
@pytest.mark.parametrize("whole_group", [False, True])
def test_signals_reach_the_job(project, fake, number, told, code, whole_group):
    """The script logs the last words of the job and passes its exit code on, also after Ctrl-C."""
    process = start(project / "scripts" / "run_standalone_train_cpu.sh", python=fake,
                    FAKE_EXIT="wait")
    for line in process.stdout:
        if line == "ready\n":
            break
    (os.killpg if whole_group else os.kill)(process.pid, number)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == code
    assert output.startswith(f"told {told}\n")
    assert f"told {told}\n" in the_log(project)


# Setting up

STUBS = ("mindspore", "librosa", "soundfile", "espeakng_loader")

# An interpreter of the version VERSION, as far as set-up looks. Calls like FAILS fail.
PRETENDED_PYTHON = f"""#!/bin/sh
case "$1 $2" in
    --version*) echo "Python VERSION"; exit ;;
    FAILS) exit 1 ;;
    -c*) exec "{sys.executable}" -c 'import sys
sys.version_info = tuple(map(int, "VERSION".split(".")))
exec(sys.argv[1])' "$2" ;;
esac
exec "{sys.executable}" "$@"
"""


@pytest.fixture
def machine(tmp_path):
    """Gives variables with a PATH on which the given {name: version} are the only Pythons."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def install(pythons: dict[str, str], fails: str = "nothing") -> dict[str, str]:
        for name in ("python3", *(f"python3.{minor}" for minor in range(30))):
            script = "#!/bin/sh\nexit 1\n"
            if name in pythons:
                script = PRETENDED_PYTHON.replace("VERSION", pythons[name]).replace("FAILS", fails)
            executable(folder / name, script)
        return {"PATH": f"{folder}:{os.environ['PATH']}"}

    return install


@pytest.fixture
def bare_project(project, machine, tmp_path) -> tuple[Path, dict[str, str]]:
    """A project that needs only what a new environment has, and variables for set-up offline."""
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    for name in STUBS:
        (stubs / f"{name}.py").touch()
    for name in ("requirements.txt", "requirements-dev.txt"):
        (project / name).write_text("pip>=20\n")
    return project, {"PYTHONPATH": str(stubs), "PIP_NO_INDEX": "1"} | machine({"python3": "3.11.7"})


def test_environment_is_made_once_kept_up_to_date_and_repaired(bare_project):
    project, variables = bare_project

    def setup(*arguments: str, expected: int = 0) -> str:
        code, output = run(project / "scripts" / "setup_env.sh", *arguments, python="", **variables)
        assert code == expected, output
        return output

    first = setup("--dev")
    assert "making the virtual environment" in first
    assert "installing requirements.txt requirements-dev.txt" in first
    assert (project / ".venv/bin/python").exists()
    assert setup() == setup("--dev") == ""
    (project / "requirements.txt").write_text("no-such-package-at-all>=1\n")
    failed = setup(expected=2)
    assert "making" not in failed
    assert failed.endswith(
        "error: pip could not install requirements.txt; its messages stand above\n")
    (project / "requirements.txt").write_text("pip>=20.1\n")
    again = setup()  # pip has changed nothing, and without a network nothing could come back
    assert "making" not in again
    assert "installing requirements.txt (" in again
    (project / ".venv/ds2-unfinished").touch()
    repaired = setup()  # what an interrupted installation left is not trusted
    assert "making the virtual environment" in repaired
    assert "installing requirements.txt (" in repaired
    (project / "requirements.txt").write_text("pip>=20.2\n")
    changed = setup()
    assert "making" not in changed
    assert "installing requirements.txt (" in changed
    assert setup() == ""


@pytest.mark.parametrize(("pythons", "chosen"), [
    ({"python3": "3.10.13", "python3.11": "3.11.7"}, "3.10.13"),  # the default comes first
    ({"python3": "3.12.1", "python3.11": "3.11.7"}, "3.12.1"),
    ({"python3": "3.13.0", "python3.10": "3.10.13"}, "3.10.13"),
    ({"python3": "3.9.2", "python3.12": "3.12.1", "python3.13": "3.13.0"}, "3.12.1"),
])
def test_a_supported_python_is_found(project, machine, pythons, chosen):
    variables = machine(pythons, fails='"-m venv"')
    code, output = run(project / "scripts/setup_env.sh", python="", **variables)
    (name,) = (name for name, version in pythons.items() if version == chosen)
    assert (code, output) == (2, f"== making the virtual environment .venv with Python {chosen}\n"
                                 f"error: {name} could not make {project}/.venv\n")


@pytest.mark.parametrize(("pythons", "found"), [
    ({"python3": "3.13.0"}, "Python 3.13.0"),
    ({"python3": "3.9.2", "python3.13": "3.13.0", "python3.14": "3.14.1"},
     "Python 3.9.2, Python 3.13.0, Python 3.14.1"),
    ({}, "no Python 3"),
])
@pytest.mark.parametrize("exists", [False, True])
def test_no_supported_python(project, machine, pythons, found, exists):
    """One message says what to do. uv replaces an environment only when told to."""
    venv = project / ".venv"
    if exists:
        venv.mkdir()
        (venv / "pyvenv.cfg").touch()
    code, output = run(project / "scripts/setup_env.sh", python="", **machine(pythons))
    place = str(venv).replace(" ", "\\ ")
    assert (code, output) == (2, f"""\
error: MindSpore needs Python 3.10, 3.11 or 3.12. Found here: {found}.
Get one of those, then run this script again:
  Debian 12, Ubuntu 22.04 or 24.04:  apt-get install python3 python3-venv
  with uv (https://docs.astral.sh/uv):  uv venv --python 3.11 --seed{" --clear" * exists} {place}
Or set DS2_PYTHON to a Python that has requirements.txt installed.
""")
    assert venv.exists() == exists


def test_python_that_cannot_make_environments(project, machine):
    variables = machine({"python3.11": "3.11.7"}, fails="-c*ensurepip*")
    code, output = run(project / "scripts/setup_env.sh", python="", **variables)
    assert (code, output) == (2, "error: python3.11 cannot make virtual environments; "
                                 "on Debian/Ubuntu: apt-get install python3-venv "
                                 "(or python3.11-venv)\n")
    assert not (project / ".venv").exists()


def test_an_environment_made_by_hand_is_used(bare_project, machine):
    """It may be one without pip, as `uv venv` makes them."""
    project, variables = bare_project
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", project / ".venv"], check=True)
    (project / ".venv/by hand").touch()
    variables |= machine({"python3": "3.13.0"})
    code, output = run(project / "scripts/setup_env.sh", python="", **variables)
    assert code == 0, output
    assert output.startswith("== installing requirements.txt (")
    assert (project / ".venv/by hand").exists()
    assert run(project / "scripts/setup_env.sh", python="", **variables) == (0, "")


def test_half_finished_environment_is_made_anew_with_its_own_python(bare_project, machine):
    project, variables = bare_project
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", project / ".venv"], check=True)
    (project / ".venv/ds2-unfinished").touch()
    variables |= machine({"python3": "3.13.0"})
    code, output = run(project / "scripts/setup_env.sh", python="", **variables)
    assert code == 0, output
    version = ".".join(map(str, sys.version_info[:3]))
    assert f"making the virtual environment .venv with Python {version}\n" in output
    assert not (project / ".venv/ds2-unfinished").exists()


def test_a_folder_in_the_way_is_left_alone(project):
    (project / ".venv").mkdir()
    (project / ".venv/precious").touch()
    code, output = run(project / "scripts" / "setup_env.sh", python="")
    message = f"error: {project}/.venv is in the way: it is no virtual environment\n"
    assert (code, output) == (2, message)
    assert (project / ".venv/precious").exists()


def test_given_python_is_used_as_it_is(project, fake):
    code, output = run(project / "scripts" / "setup_env.sh", python=fake, FAKE_EXIT="0")
    assert (code, output) == (0, f"== using {fake} as it is\n")
    assert not (project / ".venv").exists()


def test_run_tests(project, fake):
    checks = ["<-m><ruff><check><.>",
              "<-c><from importlinter import cli; cli.lint_imports_command()>"]
    pytest = ("<-m><pytest><--numprocesses=2><--dist=loadfile><--no-loadscope-reorder>"
              "<-k><two words>")
    for options in ([], ["--all"]):
        code, output = run(project / "scripts" / "run_tests.sh", *options, "-k", "two words",
                           python=fake, FAKE_EXIT="0")
        assert code == 0
        assert re.findall(r"gpu=: (.*)", output) == [*checks, pytest]
    code, output = run(project / "scripts" / "run_tests.sh", "--faults", "-x", python=fake,
                       FAKE_EXIT="0")
    assert code == 0
    signals = "tests/faults/test_signals.py"
    assert re.findall(r"gpu=: (.*)", output) == [
        f"<-m><pytest><-rP><--numprocesses=2><{signals}><-x>",
        f"<-m><pytest><-rP><--ignore={signals}><tests/faults><-x>"]
    code, output = run(project / "scripts" / "run_tests.sh", python=fake, FAKE_EXIT="3")
    assert code == 3
    assert re.findall(r"gpu=: (.*)", output) == checks[:1]


@pytest.mark.parametrize("exit_code", [0, 1])
def test_all_tests_get_a_chromium_where_there_is_none(bare_project, tmp_path, exit_code):
    """And nginx; as root, with apt-get. Where that fails, the tests that need them say so."""
    project, variables = bare_project
    folder = tmp_path / "stubs"
    for name in ("ruff", "pytest"):
        (folder / f"{name}.py").write_text("import os; print(os.environ.get('DS2_ALL_TESTS'))")
    (folder / "importlinter.py").write_text("class cli: lint_imports_command = print")
    (project / "requirements-benchmark.txt").write_text("pip>=20\n")
    programs = tmp_path / "programs"
    programs.mkdir()
    for place in reversed(os.environ["PATH"].split(":")):  # the first of a name comes last
        for path in sorted(Path(place).glob("*")):
            (programs / path.name).unlink(missing_ok=True)
            (programs / path.name).symlink_to(path)
    for name, text in {"chromium": "", "nginx": "exit", "id": "echo 0",
                       "apt-get": f"echo apt-get $*; exit {exit_code}"}.items():
        (programs / name).unlink(missing_ok=True)
        if text:
            executable(programs / name, f"#!/bin/sh\n{text}\n")
    variables["PATH"] = f"{variables['PATH'].split(':')[0]}:{programs}"
    code, output = run(project / "scripts/run_tests.sh", "--all", python="", **variables)
    assert code == 0, output
    calls = re.findall(r"apt-get (.*)", output)
    assert len(calls) == 2 and calls[1].endswith("--no-install-recommends chromium")
    assert ("== chromium could not be installed" in output) == bool(exit_code)
    assert output.endswith("\n1\n")  # of the last command, which is pytest
    executable(programs / "chromium", "#!/bin/sh\n")
    code, output = run(project / "scripts/run_tests.sh", "--all", python="", **variables)
    assert code == 0 and "apt-get" not in output


def test_continuous_integration():
    path = ROOT / ".ci/run"
    assert path.stat().st_mode & stat.S_IXUSR
    assert "bash scripts/run_tests.sh --all" in path.read_text()


# The quick start, with a Python that pretends to do the work

PRETEND = r"""#!/bin/bash
echo "ran $*" >>"$RAN"
script=$1
value() { local a; for a in "$@"; do case $a in "$KEY"=*) echo "${a#*=}" ;; esac; done; }
case "$1 $2" in
    "-m data.demo") mkdir -p demo/data/demo_dataset/test/{wav,txt}
        cd demo/data/demo_dataset/test
        for i in 0 1 2 3 4; do echo "WORD $i" | tee wav/$i.wav txt/$i.txt >/dev/null; done ;;
    train.py*) KEY=CheckpointConfig.ckpt_path; folder=$(value "$@"); mkdir -p "$folder"
        touch "$folder/DeepSpeech-best.ckpt"
        KEY=TrainingConfig.log_dir; folder=$(value "$@"); mkdir -p "$folder"
        touch "$folder/metrics.csv" "$folder/demo_test_manifest_eval.csv" ;;
    eval.py*) printf 'Test Summary \tAverage WER %s\tAverage CER 4.000\t\n' "$WER" ;;
    export.py*) while [ "$1" != --file_name ]; do shift; done; touch "$2" "${2%.*}.json" ;;
    transcribe.py*) printf 'HEARD ONE\n\n' ;;
esac
[ "$script" != "${FAILS-}" ]
"""


def quick_start(project: Path, *arguments: str, **variables) -> tuple[int, str, str]:
    """Exit code, output, and the Python commands that were run."""
    ran = project / "ran.txt"
    ran.unlink(missing_ok=True)
    code, output = run(project / "scripts" / "quick_start.sh", *arguments, RAN=str(ran),
                       python=executable(project / "pretend", PRETEND), **variables)
    return code, output, ran.read_text()


def test_quick_start(project):
    code, output, ran = quick_start(project, WER="15.000")
    assert code == 0, output
    assert re.findall(r"^ran (-m \S+|\S+)", ran, re.M) == [
        "-m data.demo", "train.py", "eval.py", "export.py", "export.py", "eval.py", "eval.py",
        "transcribe.py"]
    assert "test/wav/1.wav\n  said:  WORD 1\n  heard: HEARD ONE\n" in output
    assert "test/wav/4.wav\n  said:  WORD 4\n  heard: \n" in output
    assert re.search(r"^ +\d\S*  demo/run/deepspeech2\.mindir +model for inference with MindSpore$",
                     output, re.M)
    assert "WER 15.000 %, CER 4.000 %" in output
    advice = output.partition(f"== what to do next, in {project}:\n")[2]
    commands = [line.strip() for line in advice.splitlines() if line.startswith("    ")]
    assert [command.replace("pretend ", "python ", 1) for command in commands] == [
        "python -m pip install '.[lm]'",
        "python -m deepspeech2 transcribe --lm english a.wav b.flac",
        "python -m data.verify_manifest mine/train.csv mine/val.csv \\",
        "--config configs/librispeech_10h.yaml",
        "python train.py --config configs/finetune.yaml --device_target CPU \\",
        "--pre_trained_model_path pretrained/librispeech_10h.ckpt \\",
        "DataConfig.train_manifest=mine/train.csv DataConfig.val_manifest=mine/val.csv",
        "bash scripts/train_an4.sh",
        "python -m data.librispeech --subsets train-clean-100 dev-clean test-clean",
        "bash scripts/run_standalone_train_gpu.sh --config configs/librispeech.yaml"]
    made = {path.name for path in project.iterdir()}
    assert made - {path.name for path in ROOT.iterdir()} <= {"demo", "pretend", "ran.txt"}


def test_quick_start_judges_the_error_rate(project):
    code, output, _ = quick_start(project, WER="15.001")
    assert code == 1
    assert output.endswith("failed: the WER is above 15 %; please report it, with demo/run/logs\n")


def test_quick_start_with_settings_has_a_folder_of_its_own_and_is_not_judged(project):
    code, output, ran = quick_start(project, "TrainingConfig.epochs=1", WER="99.000")
    assert code == 0
    assert "== settings were changed, so the error rate is not judged\n" in output
    assert re.search(r"train\.py .*ckpt_path=demo/run-\d+/checkpoints TrainingConfig\.epochs=1\n",
                     ran)
    assert not (project / "demo/run").exists()


@pytest.mark.parametrize("step", ["-m", "train.py", "eval.py", "export.py", "transcribe.py"])
def test_quick_start_ends_with_the_step_that_fails(project, step):
    code, output, ran = quick_start(project, WER="1.000", FAILS=step)
    assert code == 1
    assert ran.splitlines()[-1].startswith(f"ran {step} ")
    assert "made in" not in output


# AN4

def test_train_an4_runs_its_steps_and_hands_on_settings(project, fake):
    for path in ("an4 corpus", "ckpt_1/DeepSpeech-average.ckpt", "logs_1/metrics.csv"):
        (project / path).mkdir(parents=True)
    code, output = run(project / "scripts" / "train_an4.sh", "an4 corpus", "TrainingConfig.seed=1",
                       "TrainingConfig.log_dir=logs_1", "CheckpointConfig.ckpt_path=ckpt_1",
                       python=fake, FAKE_EXIT="0", cwd=project)
    assert code == 0
    ran = [line.split(": ", 3)[3] for line in output.splitlines() if line.startswith("run: ")]
    assert f"<-m><data.an4><--source><{project}/an4 corpus>" in ran
    train, evaluation, curves = ran[-3:]
    assert train.startswith("<train.py><--config><configs/an4.yaml>")
    assert "<--resume><auto>" in train
    assert train.endswith(
        "<TrainingConfig.seed=1><TrainingConfig.log_dir=logs_1><CheckpointConfig.ckpt_path=ckpt_1>")
    assert evaluation.startswith("<eval.py><--pretrain_ckpt><ckpt_1/DeepSpeech-average.ckpt>")
    # with the settings: those of the network have to be the checkpoint's
    settings = "<TrainingConfig.seed=1><TrainingConfig.log_dir=logs_1>"
    assert f"<--device_target><CPU>{settings}" in evaluation
    assert evaluation.endswith(
        "<DataConfig.test_manifest=data/an4_val_manifest.csv><TrainingConfig.log_dir=logs_1>")
    assert curves == "<-m><tools.plot_log><logs_1/metrics.csv><--output><logs_1/curves.png>"


def test_train_an4_from_another_folder(project, fake, tmp_path):
    """A Python that the caller names by a relative path is found by inner scripts too."""
    (tmp_path / "an4 corpus").mkdir()
    code, output = run(project / "scripts" / "train_an4.sh", "an4 corpus", cwd=tmp_path,
                       python="./fake python", FAKE_EXIT="0")
    assert code == 0, output
    assert f"<--source><{tmp_path}/an4 corpus>" in output


def test_train_an4_without_a_home(project, fake, tmp_path):
    """As in a service of systemd."""
    (project / "an4").mkdir()
    script = project / "scripts" / "train_an4.sh"
    code, output = run(Path("-c"), 'unset HOME; exec bash "$0" an4', str(script), shell="bash",
                       python=fake, FAKE_EXIT="0", cwd=project)
    assert code == 0, output


def test_train_an4_evaluates_the_average_wherever_the_run_lies(project, fake, tmp_path):
    (tmp_path / "my runs").mkdir()
    (tmp_path / "my runs" / "tens-average.ckpt").touch()
    code, output = run(project / "scripts" / "train_an4.sh", "CheckpointConfig.ckpt_path=~/my runs",
                       "CheckpointConfig.ckpt_file_name_prefix=tens", python=fake, FAKE_EXIT="0",
                       HOME=str(tmp_path))
    assert code == 0
    assert f"<eval.py><--pretrain_ckpt><{tmp_path}/my runs/tens-average.ckpt>" in output


def test_train_an4_without_its_source(project, fake):
    code, output = run(project / "scripts" / "train_an4.sh", "nowhere", python=fake, FAKE_EXIT="0")
    assert code == 2 and output.endswith("nowhere does not exist\n") and "run:" not in output


def test_train_an4_without_arguments(project, fake):
    """The first time it ends inside the first epoch: nothing to average, nothing to draw."""
    code, output = run(project / "scripts" / "train_an4.sh", python=fake, FAKE_EXIT="0")
    assert code == 0 and "<-m><data.an4>\n" in output
    assert "<checkpoints_an4/DeepSpeech-last.ckpt>" in output and "plot_log" not in output
    for path in ("checkpoints_an4/DeepSpeech-average.ckpt", "logs_an4/metrics.csv"):
        (project / path).mkdir(parents=True)
    code, output = run(project / "scripts" / "train_an4.sh", python=fake, FAKE_EXIT="0")
    assert code == 0
    assert "<checkpoints_an4/DeepSpeech-average.ckpt>" in output
    assert "<logs_an4/metrics.csv>" in output
    code, output = run(project / "scripts" / "train_an4.sh", python=fake, FAKE_EXIT="3")
    assert code == 3


# English

# Prepares data for real; says what else it was given.
PREPARING_PYTHON = """#!/bin/bash
case "$2" in data.*) exec {python} "$@" --jobs 1 ;; esac
echo "ran $*"
"""


def write_festvox(folder: Path, *names: str) -> None:
    """A voice that says THREE WORDS HERE in each recording."""
    for part in ("wav", "etc"):
        (folder / part).mkdir(parents=True)
    lines = [f'( {name} "Three words here." )\n' for name in names]
    (folder / "etc" / "txt.done.data").write_text("".join(lines))
    for name in names:
        soundfile.write(folder / "wav" / f"{name}.wav", np.zeros(32000), 16000)


def write_librispeech(folder: Path, *names: str) -> None:
    """A subset that says THREE WORDS HERE in each recording."""
    for name in names:
        speaker, chapter, _ = name.split("-")
        (folder / speaker / chapter).mkdir(parents=True)
        soundfile.write(folder / speaker / chapter / f"{name}.flac", np.zeros(32000), 16000)
        lines = folder / speaker / chapter / f"{speaker}-{chapter}.trans.txt"
        lines.write_text(f"{name} THREE WORDS HERE\n")


def test_train_english_learns_all_voices_but_the_one_and_the_sentences_kept_for_trials(
        project, tmp_path):
    python = executable(tmp_path / "python", PREPARING_PYTHON.format(python=sys.executable))
    write_librispeech(project / "speech/LibriSpeech/train-clean-5", "1-2-0005")
    write_librispeech(project / "speech/LibriSpeech/dev-clean", "3-4-0005")
    write_festvox(project / "speech/CMU_ARCTIC/cmu_us_bdl_arctic", "arctic_a0001")
    write_festvox(project / "speech/CMU_ARCTIC/cmu_us_slt_arctic", "arctic_a0051", "arctic_a0005")
    write_festvox(project / "speech/Kathleen_CC0", "arctic_b0015_77", "arctic_b0004_75")
    code, output = run(project / "scripts" / "train_english.sh", "speech", "TrainingConfig.seed=1",
                       python=python, cwd=project)
    assert code == 0, output
    manifest = (project / "data/english_train_manifest.csv").read_text().splitlines()
    assert [Path(line.split(",")[0]).stem for line in manifest] == [
        "1-2-0005", "arctic_a0051", "arctic_b0004_75"]
    train, evaluation = [line for line in output.splitlines() if line.startswith("ran ")][-2:]
    assert train.startswith("ran train.py --config configs/librispeech_10h.yaml")
    assert train.endswith("--resume auto TrainingConfig.seed=1")
    assert evaluation.startswith("ran eval.py --pretrain_ckpt checkpoints_librispeech_10h/")


def test_train_english_with_librispeech_alone(project, tmp_path):
    python = executable(tmp_path / "python", PREPARING_PYTHON.format(python=sys.executable))
    write_librispeech(project / "speech/LibriSpeech/train-clean-5", "1-2-0005")
    write_librispeech(project / "speech/LibriSpeech/dev-clean", "3-4-0005")
    code, output = run(project / "scripts" / "train_english.sh", "speech", python=python,
                       cwd=project)
    assert code == 0, output
    assert len((project / "data/english_train_manifest.csv").read_text().splitlines()) == 1


def test_train_english_goes_on_without_a_recording_that_is_broken(project, tmp_path):
    python = executable(tmp_path / "python", PREPARING_PYTHON.format(python=sys.executable))
    write_librispeech(project / "speech/LibriSpeech/train-clean-5", "1-2-0005")
    write_librispeech(project / "speech/LibriSpeech/dev-clean", "3-4-0005")
    voice = project / "speech/CMU_ARCTIC/cmu_us_slt_arctic"
    write_festvox(voice, "arctic_a0051", "arctic_a0052")
    (voice / "wav/arctic_a0052.wav").write_text("no recording")
    script = project / "scripts" / "train_english.sh"
    code, output = run(script, "speech", python=python, cwd=project)
    assert code == 0 and "arctic_a0052.wav" in output
    assert len((project / "data/english_train_manifest.csv").read_text().splitlines()) == 2
    (voice / "wav/arctic_a0051.wav").write_text("no recording")  # nothing is left
    code, output = run(script, "speech", python=python, cwd=project)
    assert code == 2 and "ran train.py" not in output


def test_train_english_without_librispeech(project, fake):
    (project / "speech").mkdir()
    code, output = run(project / "scripts" / "train_english.sh", "speech", python=fake,
                       FAKE_EXIT="0", cwd=project)
    assert code == 2 and output.endswith("speech has no folder LibriSpeech\n")
