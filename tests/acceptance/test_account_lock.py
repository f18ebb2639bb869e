"One runner an account: the second leaves with one line, and a lock outlives nobody."
import os
import re
import signal
import subprocess
import sys

import pytest

from live_runner.clock import ns_of
from live_runner.lock import AccountLock, locks_folder
from live_runner.problems import CallAHuman

URL = "https://api.example.com"
HOLDER = """
import sys
from live_runner.lock import AccountLock
with AccountLock(*sys.argv[1:]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MESBOT_LOCKS", str(tmp_path / "locks"))
    return tmp_path / "locks"


def holder(url, account):
    "Another process that holds the account until its input is closed."
    process = subprocess.Popen([sys.executable, "-c", HOLDER, url, account], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def refusal(url=URL, account="PRACTICE-1"):
    with pytest.raises(CallAHuman) as refused:
        with AccountLock(url, account): raise AssertionError("the lock was given twice")
    return str(refused.value)


def test_a_second_runner_on_the_account_leaves_with_one_line_and_the_lock_of_a_killed_one_is_free():
    process = holder(URL, "PRACTICE-1")
    try:
        for _ in range(2):                                                       # who asks in vain takes nothing from the holder, not even its name
            said = re.fullmatch(r"another runner trades account PRACTICE-1 \(process (\d+) since (\S+)\)", refusal())
            assert int(said[1]) == process.pid and ns_of(said[2]) > 0
        with AccountLock(URL, "PRACTICE-2"), AccountLock("https://other.example.com", "PRACTICE-1"): pass
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    with AccountLock(URL, "PRACTICE-1") as lock: assert str(os.getpid()) in lock.path.read_text()


def test_a_lock_that_is_given_back_can_be_taken_again(folder):
    for _ in range(2):
        with AccountLock(URL, "A") as lock: assert "another runner trades account A" in refusal(account="A")
        with AccountLock(URL, "A") as other: assert other is not lock
    with pytest.raises(ZeroDivisionError), AccountLock(URL, "A"): 1 / 0
    with AccountLock(URL, "A"): pass


def test_two_spellings_of_one_gateway_are_one_account():
    with AccountLock("https://API.example.com/", "A"): assert "account A" in refusal(account="A")


def test_names_are_never_paths_and_never_confused(folder):
    with AccountLock(URL, "../a b"), AccountLock(URL, "../a/b") as other: assert other.path.parent == folder
    assert len(list(folder.iterdir())) == 2


def test_locks_are_the_same_for_all_folders_of_a_user(monkeypatch):
    monkeypatch.delenv("MESBOT_LOCKS")
    assert locks_folder().is_absolute() and "mesbot" in locks_folder().name


def test_a_holder_that_has_not_yet_said_its_name_is_refused_all_the_same():
    with AccountLock(URL, "A") as lock:
        lock.path.write_text("")
        assert refusal(account="A") == "another runner trades account A (it has not said which process it is)"
