"""Programs that the nursery forks are as good as fresh processes: arguments, environment, signals, status, lock."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from train.libraries import hidden
from train.nursery import Child

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAMS = {
    "facts": """
        import json, os, signal, sys, torch
        facts = {"arguments": sys.argv[1:], "environment": os.environ.get("WORD"), "threads": torch.get_num_threads(),
                 "ignored": signal.getsignal(signal.SIGTERM) == signal.SIG_IGN, "name": __name__,
                 "imported": [name for name in ("bitsandbytes", "datasets", "boto3") if name in sys.modules]}
        print(json.dumps(facts))
        sys.exit(7)
        """,
    "multiplies": """
        import numpy
        square = numpy.ones((900, 900))
        print("product", (square @ square)[0, 0])
        """,
    "broken": """
        raise OSError("a full disk")
        """,
    "waits": """
        import signal
        signal.pause()
        """,
}
PROGRAMS["exits"] = """
    import atexit, sys, tempfile
    kept = tempfile.TemporaryDirectory(prefix="of-the-child-", dir=".")
    atexit.register(print, "the child's own end")
    sys.exit("in words")
    """
OWNER = """
    import fcntl, json, os, signal, sys, time
    from train.nursery import Nursery

    def at(words, **more):
        return nursery.start(["-m", *words], dict(os.environ) | more, more.get("lock", -1))

    if __name__ == "__main__":
        with Nursery({"OMP_NUM_THREADS": "2"}) as nursery:
    %s
    """


@pytest.fixture
def owner(tmp_path):
    """Runs lines of a program that has a nursery, with the programs above; returns what it prints."""
    for name, text in PROGRAMS.items():
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))

    def run(lines: str) -> subprocess.CompletedProcess:
        body = textwrap.indent(textwrap.dedent(lines).strip(), " " * 12)
        (tmp_path / "owner.py").write_text(textwrap.dedent(OWNER) % textwrap.indent(textwrap.dedent(body), " " * 12))
        environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
        command = [sys.executable, "-m", "owner"]
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    return run


def test_a_forked_program_has_its_own_arguments_environment_threads_and_signals(owner):
    done = owner('print(at(["facts", "--x", "1"], WORD="w", OMP_NUM_THREADS="1").wait())')
    first, status = done.stdout.splitlines()
    assert json.loads(first) == {
        "arguments": ["--x", "1"], "environment": "w", "threads": 1, "ignored": False, "name": "__main__",
        "imported": [],
    }, done.stderr  # fmt: skip
    assert status == "7"


def test_an_error_ends_the_forked_program_alone(owner):
    done = owner('print(at(["broken"]).wait(), at(["facts"]).wait())')
    assert done.stdout.splitlines()[-1] == "1 7" and "OSError: a full disk" in done.stderr
    assert done.returncode == 0


def test_a_forked_program_multiplies_with_the_threads_that_it_starts_itself(owner):
    done = owner('import numpy; numpy.ones((900, 900)) @ numpy.ones((900, 900)); at(["multiplies"]).wait()')
    assert done.stdout.split() == ["product", "900.0"], done.stderr


def test_a_program_that_is_gone_cannot_be_sent_a_signal():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    Child(gone.pid, None).send_signal(0)


def test_nothing_of_a_nursery_stays_open(owner):
    done = owner("nursery.__exit__(); print(nursery.answers.closed, nursery.channel.fileno()); nursery.pid = None")
    assert done.stdout.splitlines() == ["True -1"], done.stderr


def test_a_killed_program_tells_the_signal_and_a_killed_nursery_takes_its_program_along(owner):
    done = owner(
        """
        child = at(["waits"])
        child.send_signal(signal.SIGTERM)
        print(child.wait())
        child = at(["waits"])
        os.kill(nursery.pid, signal.SIGKILL)
        print(child.wait(), child.pid)
        print(at(["facts"]).wait())
        """
    )
    told = [line for line in done.stdout.splitlines() if not line.startswith("{")]
    assert told[0] == str(-signal.SIGTERM) and told[2] == "7", done.stdout + done.stderr
    status, pid = told[1].split()
    assert status == str(-signal.SIGKILL) and not runs(int(pid))


def runs(pid: int) -> bool:
    """Whether a process still does something; one that has ended may wait for init to take notice."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_forked_program_holds_the_lock_and_nobody_else_does_when_it_has_ended(owner):
    done = owner(
        """
        lock = os.open("lock", os.O_CREAT | os.O_RDWR)
        fcntl.flock(lock, fcntl.LOCK_EX)
        child = nursery.start(["-m", "waits"], dict(os.environ), lock)
        os.close(lock)
        other = os.open("lock", os.O_RDWR)
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("held")
        child.kill()
        child.wait()
        fcntl.flock(other, fcntl.LOCK_EX)
        print("free")
        """
    )
    assert done.stdout.splitlines() == ["held", "free"], done.stderr


def test_a_forked_program_ends_as_itself_and_does_nothing_of_what_its_parents_end_does(owner, tmp_path):
    done = owner(
        """
        import atexit, tempfile
        from train.child import become, held_back
        kept, own = tempfile.TemporaryDirectory(dir="."), os.getpid()
        atexit.register(print, "the owner's end")
        with held_back():
            pid = os.fork()
            if pid == 0:
                try:
                    become(["-m", "exits"], dict(os.environ), own)
                finally:
                    print("what stood on the stack")
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), os.path.isdir(kept.name), flush=True)
        """
    )
    assert done.stdout.splitlines() == ["the child's own end", "1 True", "the owner's end"], done.stderr
    assert done.stderr.splitlines()[-1] == "in words"
    assert not list(tmp_path.glob("of-the-child-*"))


def test_a_hidden_module_is_not_there_for_anybody_who_looks_and_is_there_again():
    with hidden(("wave", "json")):
        with pytest.raises(ImportError):
            import wave
        assert sys.modules["json"] is json, "what is imported already stays"
    import wave

    assert wave.__name__ == "wave"
