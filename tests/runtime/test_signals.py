"""Signals that ask for a stop."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from helpers import ROOT

from chestxray.runtime.signals import SIGNALS, Stopped, catch_signals, delay_ctrl_c


def run(program: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "import os, signal\n" + program]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.parametrize("signum", SIGNALS)
def test_the_first_signal_is_a_request_to_stop(signum: int) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with catch_signals() as request:
        request.check()
        assert not request
        os.kill(os.getpid(), signum)
        assert request
        with pytest.raises(Stopped, match=signal.Signals(signum).name) as stopped:
            request.check()
    assert stopped.value.signum == signum
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_before_anybody_looks_a_signal_ends_the_process() -> None:
    """As in imports and downloads."""
    ended = run("""
from chestxray.runtime.signals import catch_signals
with catch_signals() as request:
    os.kill(os.getpid(), signal.SIGUSR1)
""")
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGUSR1, "stopped by SIGUSR1\n")


def test_ctrl_c_at_that_time_leaves_an_interactive_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    with pytest.raises(Stopped, match="SIGINT"), catch_signals():
        os.kill(os.getpid(), signal.SIGINT)


def test_another_thread_works_without_signals() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    reached = []

    def work() -> None:
        with catch_signals() as request, delay_ctrl_c():
            request.check()
            assert [signal.getsignal(number) for number in SIGNALS] == before
            reached.append("the end")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert reached == ["the end"]


def test_later_signals_do_not_change_what_the_first_asked_for() -> None:
    with catch_signals() as request:
        request.check()
        for signum in (signal.SIGHUP, signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), signum)
    assert request.signum == signal.SIGHUP


def test_the_handlers_are_restored_after_an_exception() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(ValueError), catch_signals():
        raise ValueError
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_second_ctrl_c_ends_the_process_at_once() -> None:
    ended = run("""
from chestxray.runtime.signals import catch_signals
with catch_signals() as request:
    request.check()
    os.kill(os.getpid(), signal.SIGINT)
    print("saving", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("not reached", flush=True)
""")
    assert (ended.returncode, ended.stdout) == (-signal.SIGINT, "saving\n")
    assert ended.stderr == "stopping in order; a second Ctrl-C ends at once\n"


def test_a_signal_that_nohup_ignores_stays_ignored() -> None:
    ended = run("""
from chestxray.runtime.signals import catch_signals
signal.signal(signal.SIGHUP, signal.SIG_IGN)
with catch_signals() as request:
    os.kill(os.getpid(), signal.SIGHUP)
    request.check()
assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
""")
    assert ended.returncode == 0, ended.stderr


def test_a_worker_leaves_the_signals_to_its_parent() -> None:
    ended = run("""
from chestxray.runtime.signals import ignore_signals
ignore_signals()
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    os.kill(os.getpid(), number)
print("alive")
""")
    assert (ended.returncode, ended.stdout) == (0, "alive\n")


def test_ctrl_c_waits_for_the_end_whichever_thread_takes_it() -> None:
    """Sent to the process while another thread, which does not block it, can take it."""
    reached = []
    with pytest.raises(KeyboardInterrupt), delay_ctrl_c():
        thread = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT))
        thread.start()
        thread.join()
        reached.append("the end")
    assert reached == ["the end"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
