"""What a pod of a run executes, whatever started it: Job, PyTorchJob, MPIJob or TrainJob.

    python -m scripts.pod

The first pod leads: it checks, prepares, trains with the others, merges, proves, evaluates and reports. The others wait
for it and train. Where they stand comes from the environment (scripts.pod_place), what is learned from /etc/finetune.

Exit status, by which restarts are decided: 0 done; 2 bad input, never worth another try; 1 failed for good; 143 was
asked to leave, worth another start.
"""

import os
import signal
import sys
import time
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path

from scripts import pod_mpi
from scripts.chain import STAGES, run_child, stage_commands, update_record
from scripts.pod_metrics import serve_metrics
from scripts.pod_peers import PORT, answers, listen
from scripts.pod_place import Place, read_overlay, read_place
from scripts.pod_s3 import mirrored
from scripts.pod_starts import counted
from scripts.pod_training import Ended, kills_for_memory, memory_limit, read_run, train
from scripts.runs import lock_run, run_status
from scripts.webhook import take_address, told_at_the_end
from train.allocator import prefer_tcmalloc
from train.errors import EXIT_BAD_INPUT, FIRST_PROBLEM, InputError, in_one_line, report_problems, see
from train.events import VARIABLE, tell
from train.layout import thread_settings
from train.nursery import Nursery
from train.orphans import LAUNCHER_PID

CONFIG = Path(os.environ.get("CONFIG", "/etc/finetune"))
TERMINATION = Path("/dev/termination-log")  # the kubelet shows it as the container's last message
EXIT_LEFT = 143
SECONDS_UNTIL_ADVICE = 60.0
ADVICE = (
    "waiting for the first pod, {leader}, which has not answered for {seconds} s. If it is "
    "pending, make status says why. If its node is lost, Kubernetes replaces it when it is told so: "
    "kubectl taint node NAME node.kubernetes.io/out-of-service=nodeshutdown:NoExecute, "
    "or kubectl delete pod NAME --force" + see("workers-cannot-meet")
)


def main() -> int:
    signal.signal(signal.SIGTERM, leave)
    try:
        address = take_address()  # before any program is started, which would inherit it
        place, overlay = read_place(), read_overlay(CONFIG)
        place.directory.mkdir(parents=True, exist_ok=True)
        os.environ[VARIABLE] = str(place.directory / "log.jsonl") if place.leads else "-"
        tell("start", run=place.run, index=place.index, nodes=place.nodes, min_nodes=place.min_nodes,
             processes=place.processes, threads=place.threads, node=place.node, image=place.image)  # fmt: skip
        with nursery_of(place) as nursery:
            listen()
            serve_metrics(place, overlay)
            name = "" if place.leads else f"pod {place.index} on {place.node or 'its node'}"
            with told_at_the_end(address, place.directory, overlay, name):
                return lead(place, nursery) if place.leads else follow(place, nursery)
    except InputError as error:
        report_problems(error)
        return end(EXIT_BAD_INPUT, in_one_line(error.problems[0]))
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return end(1, f"{error.filename or 'the store'}: {error.strerror or error}")
    except Ended as ended:
        return end(ended.status, str(ended))


def leave(number, frame) -> None:
    """Asked to leave while no program runs: nothing is half done."""
    sys.exit(end(EXIT_LEFT, "was asked to leave"))


def end(status: int, reason: str = "", result: str | None = None) -> int:
    """Tell how this pod ended, also to the kubelet; returns the status."""
    said = {0: "complete", EXIT_LEFT: "stopped"}.get(status, "failed")
    tell("end", status=said, code=status, reason=reason or None, result=result)
    if reason and TERMINATION.exists():
        TERMINATION.write_text(reason[:2000])
    return status


# ---- the pod that leads ----


def nursery_of(place: Place) -> AbstractContextManager[Nursery | None]:
    """What starts this pod's programs: the libraries are imported while it waits for others, looks and fills its disk.

    None in an MPIJob's launcher, whose programs mpirun starts on the workers.
    """
    if place.runtime == "mpijob":
        return nullcontext()
    return Nursery(thread_settings(place.processes * place.threads))


def lead(place: Place, nursery: Nursery | None) -> int:
    """Work through the run's stages; what is done already is not done again."""
    run = place.directory
    with ExitStack() as held:
        lock = wait_for_lock(place, held)
        held.enter_context(mirrored(place, CONFIG))
        held.enter_context(counted(place))
        if run_status(run) != "complete":
            if place.runtime == "mpijob":
                pod_mpi.wait_for(pod_mpi.read_hosts(), lambda silent: tell("waiting", **{"for": ", ".join(silent)}))
            stage(place, "prepare", ["-m", "scripts.pod_prepare", str(CONFIG)], lock, nursery)
            work_through(place, lock, nursery)
    result = next((name for name in ("merged", "model", "adapter") if (run / name).exists()), None)
    print(f"run {run} is complete: {run / str(result)}", flush=True)
    return end(0, result=result)


def wait_for_lock(place: Place, held: ExitStack) -> int:
    """The run's lock; the pod this one replaces may hold it for as long as it takes to save a checkpoint."""
    started = time.monotonic()
    while True:
        try:
            return held.enter_context(lock_run(place.directory))
        except InputError:
            tell("waiting", **{"for": "the run's last pod to end", "seconds": round(time.monotonic() - started)})


def work_through(place: Place, lock: int, nursery: Nursery | None) -> None:
    """Every stage after the first. Raises Ended where one does not end well."""
    run = place.directory
    recipe, model = read_run(run)
    commands = stage_commands(run, recipe, model, layout_words(place))
    for name in STAGES:
        if name not in commands:
            continue
        result, words = commands[name]
        if result and result.exists():
            tell("stage", stage=name, state="skipped")
            continue
        seconds = train(place, words, lock, nursery) if name == "train" else stage(place, name, words, lock, nursery)
        update_record(run, name, seconds)


def stage(place: Place, name: str, words: list[str], lock: int, nursery: Nursery | None) -> float:
    """Run one program where the run's memory and processors are; returns its seconds. Raises Ended if it fails."""
    print(f"--- {name}", flush=True)
    tell("stage", stage=name, state="started")
    started = time.monotonic()
    first_problem = place.directory / ".first-problem"
    first_problem.unlink(missing_ok=True)
    environment = dict(os.environ) | thread_settings(place.processes * place.threads)
    environment[FIRST_PROBLEM] = str(first_problem)
    if place.runtime == "mpijob":
        words = pod_mpi.on_first(pod_mpi.read_hosts(), ["python", *words], environment)
    else:
        environment |= {LAUNCHER_PID: str(os.getpid())}
    killed = kills_for_memory()
    status, received = run_child(words, environment, lock, nursery=nursery)
    seconds = time.monotonic() - started
    tell("stage", stage=name, state="failed" if status else "done", seconds=round(seconds, 1))
    if received:
        raise Ended(EXIT_LEFT, f"was asked to leave in stage {name}")
    if status == EXIT_BAD_INPUT:
        raise Ended(EXIT_BAD_INPUT, first_problem.read_text() if first_problem.exists() else "bad input; see the log")
    if status:
        raise Ended(1, f"stage {name} {how_it_failed(status, kills_for_memory() > killed)}")
    return seconds


def how_it_failed(status: int, for_memory: bool) -> str:
    """How a program ended that did not end well, and what helps; `for_memory`: the kernel says that it was that."""
    if status >= 0:
        return f"ended with status {status}; its error stands in the log"
    how = f"was killed by {signal.Signals(-status).name}"
    if status != -signal.SIGKILL:
        return f"{how}; its error stands in the log"
    why = "because the pod's memory limit was reached" if for_memory else "as the kernel does when memory runs out"
    return f"{how}, {why} (limit: {memory_limit()}); raise resources.limits.memory"


def layout_words(place: Place) -> list[str]:
    """train.launch's arguments: the processes of this pod, and how they meet those of the others."""
    words = ["--nproc", str(place.processes), "--threads", str(place.threads), "--grace", str(place.seconds_to_save)]
    if place.nodes == 1:
        return words
    nodes = str(place.nodes) if place.min_nodes == place.nodes else f"{place.min_nodes}:{place.nodes}"
    words += ["--nodes", nodes, "--leader", f"{place.leader}:{place.port}", *(["--host"] if place.leads else [])]
    # torchrun numbers the nodes in the order of their addresses as text. Rank 0, which speaks, is to be the leader's:
    # it has an address, and the others, whom nobody calls by what they say here, a name that comes after it.
    return [*words, "--address", place.address if place.leads else f"node-{place.index}"]


# ---- the others ----


def follow(place: Place, nursery: Nursery | None) -> int:
    """Wait until the leader trains, and train with it, until there is a result."""
    with counted(place):
        if wait_for_leader(place):
            recipe, model = read_run(place.directory)
            _, words = stage_commands(place.directory, recipe, model, layout_words(place))["train"]
            train(place, words, -1, nursery, before=lambda: wait_for_leader(place))
    print(f"{place.directory}: trained; the first pod does the rest", flush=True)
    if place.runtime == "pytorchjob":
        wait_for_end(place)
    return end(0)


def wait_for_end(place: Place) -> None:
    """Stay until the run is complete and the first pod has ended, after it has told so.

    An elastic PyTorchJob is over, and all its pods go, when any of them succeeds.
    """
    tell("waiting", **{"for": "the first pod to merge and report", "seconds": 0})
    while run_status(place.directory) != "complete":
        time.sleep(2)
    while answers(place.leader, PORT):
        time.sleep(1)


def wait_for_leader(place: Place) -> bool:
    """Wait for the port at which the processes meet; False when there is nothing left to train.

    Says once how to help where the first pod does not answer at all: one that lies on a lost node is not replaced.
    """
    started = told = heard = time.monotonic()
    advised = False
    while True:
        if any((place.directory / name).exists() for name in ("adapter", "model")):
            return False
        if answers(place.leader, place.port):
            return True
        if answers(place.leader, PORT):  # it is there, and prepares
            heard = time.monotonic()
        elif not advised and time.monotonic() - heard > SECONDS_UNTIL_ADVICE:
            advised = True
            print(ADVICE.format(leader=place.leader, seconds=round(time.monotonic() - heard)), flush=True)
        if time.monotonic() - told > 30 or told == started:
            told = time.monotonic()
            tell("waiting", **{"for": f"{place.leader} to train", "seconds": round(told - started)})
        time.sleep(1)


if __name__ == "__main__":
    prefer_tcmalloc()
    code = main()
    sys.stdout.flush()
    sys.exit(code)
