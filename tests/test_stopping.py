"""Signals are answered whatever a command does: in real processes."""

import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, heed_signals

BEGIN = """
import hashlib, os, signal, sys, time
from deepspeech2 import commands, stopping
from deepspeech2.stopping import StopRequests
def busy():
    "A long time in C, without a Python byte code, as in a compiler."
    said = False
    while True:
        try:
            if not said:
                said = True
                print("ready", flush=True)
            hashlib.pbkdf2_hmac("sha512", b"", b"", 2 * 10**9)
        except KeyboardInterrupt:
            pass  # it came before the call

def run(command):
    sys.exit(commands.run(command))
"""
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]


STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def _ends_what_is_left():
    yield
    while STARTED:
        process = STARTED.pop()
        process.kill()
        process.communicate()


def start(script: str, preexec_fn=heed_signals, grace: float = 60.0, **options) -> subprocess.Popen:
    """A process that has said that it is ready; after `grace` seconds a signal ends it at once."""
    program = f"{BEGIN}\nstopping.GRACE_SECONDS = {grace}\n{script}"
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               preexec_fn=preexec_fn, **options)
    STARTED.append(process)
    assert process.stdout.readline() == "ready\n"
    return process


def ended(process: subprocess.Popen, code: int, message: str) -> None:
    output, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert (output, errors) == ("", message)


@pytest.mark.parametrize("number", SIGNALS)
def test_python_code_is_unwound(number):
    """Files that are half written are removed, for example."""
    process = start("""
def command():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("cleaned", file=sys.stderr)
run(command)""")
    process.send_signal(number)
    said = "interrupted" if number == signal.SIGINT else f"stopped by {number.name}"
    ended(process, 128 + number, f"cleaned\n{said}\n")


def test_what_an_import_makes_of_the_interruption_is_not_shown():
    process = start("""
def command():
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        raise ImportError("initialization failed")
run(command)""")
    process.send_signal(signal.SIGINT)
    ended(process, 130, "interrupted\n")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_library_that_does_not_return_is_ended(number):
    process = start("run(busy)", grace=0.2)
    process.send_signal(number)
    ended(process, 128 + number, f"stopped at once by {number.name}\n")


def test_what_would_be_lost_is_waited_for():
    """A run that must save first; then the rest of the program is ended."""
    process = start("""
unsaved = True
def note(number):
    print("noted", number, file=sys.stderr)
with StopRequests(note, may_end=lambda: not unsaved) as stop:
    print("ready", flush=True)
    while not stop.number:
        time.sleep(0.01)
    time.sleep(10 * stopping.POLL_SECONDS)
    print("saved", file=sys.stderr)
    unsaved = False
    hashlib.pbkdf2_hmac("sha512", b"", b"", 2 * 10**9)""", grace=0.2)
    process.send_signal(signal.SIGTERM)
    ended(process, 143, "noted 15\nsaved\nstopped at once by SIGTERM\n")


def test_the_same_signal_once_more_ends_at_once():
    process = start("""
with StopRequests(lambda number: print("noted", file=sys.stderr, flush=True),
                  may_end=lambda: False) as stop:
    print("ready", flush=True)
    while not stop.number:
        time.sleep(0.01)
    print("again", flush=True)
    time.sleep(60)""")
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "again\n"
    process.send_signal(signal.SIGTERM)
    ended(process, 143, "noted\nstopped at once by SIGTERM\n")


def test_an_ignored_signal_stays_ignored():
    """As `nohup` does."""
    process = start("""
def command():
    print("ready", flush=True)
    sys.stdin.readline()
    return 3
run(command)""", stdin=subprocess.PIPE,
                    preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    output, errors = process.communicate("\n", timeout=60)
    assert (process.returncode, output, errors) == (3, "", "")


def test_a_stopped_command_unwinds_no_libraries():
    """MindSpore aborts when Python ends after an interrupted import."""
    process = start("""
import atexit
atexit.register(os.abort)
def command():
    print("ready", flush=True)
    time.sleep(60)
commands.leave(commands.run(command))""")
    process.send_signal(signal.SIGTERM)
    ended(process, 143, "stopped by SIGTERM\n")


def test_a_forked_worker_ends_as_any_process():
    """Also when it gets the signal at once, before it has run a line of its own."""
    process = start("""
def command():
    for _ in range(50):
        pid = os.fork()
        if not pid:
            time.sleep(60)
            os._exit(1)
        os.kill(pid, signal.SIGTERM)
        if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != -15:
            return 1
    print("ready", flush=True)
    time.sleep(1)  # the signals of the workers do not stop this process
    return 15
run(command)""")
    ended(process, 15, "")


def test_a_library_that_takes_over_ctrl_c_loses_it_again():
    """MindSpore's handler sends SIGTERM; here the C function `abort` stands for it."""
    process = start("""
import ctypes
def command():
    libc = ctypes.CDLL(None)
    libc.signal(signal.SIGINT, libc.abort)
    time.sleep(10 * stopping.POLL_SECONDS)
    print("ready", flush=True)
    time.sleep(60)
run(command)""")
    process.send_signal(signal.SIGINT)
    ended(process, 130, "interrupted\n")


def test_ctrl_c_ends_the_first_imports_of_a_training_without_a_traceback(tmp_path):
    (tmp_path / "numpy.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)")
    process = subprocess.Popen([sys.executable, str(ROOT / "train.py")], text=True,
                               env=os.environ | {"PYTHONPATH": str(tmp_path)},
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               preexec_fn=heed_signals)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    ended(process, -signal.SIGINT, "")


def test_the_handlers_before_come_back():
    process = start("""
before = [signal.getsignal(number) for number in stopping.STOP_SIGNALS]
with StopRequests(stopping.interrupt):
    with StopRequests(stopping.interrupt):
        pass
assert [signal.getsignal(number) for number in stopping.STOP_SIGNALS] == before
assert signal.set_wakeup_fd(-1) == -1
print("ready", flush=True)""")
    ended(process, 0, "")
