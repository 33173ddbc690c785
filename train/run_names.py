"""The runs on this machine by their names: found, or said that there is none, alike by every program."""

from pathlib import Path

from train.errors import InputError, problem

RECORD = "run.json"
FETCHED = "a run on a cluster comes here first: make results RUN={name}"


def known_runs(runs: Path) -> str:
    """The names of the runs there are."""
    return ", ".join(sorted(path.parent.name for path in runs.glob(f"*/{RECORD}"))) or "none; make run makes one"


def no_such_run(runs: Path, name: str, variable: str = "RUN", elsewhere: str = FETCHED) -> str:
    """The message about a name that is no run's; `elsewhere` says what to do where it is one on a cluster."""
    fix = f"there are: {known_runs(runs)}; {elsewhere.format(name=name or '…')}"
    return problem(variable, name or "(empty)", f"is no run in {runs}", fix)


def is_name(name: str) -> bool:
    """Whether this may name a directory among the runs, and leads nowhere else."""
    return name not in ("", "..") and Path(name).name == name


def find_run(runs: Path, name: str, elsewhere: str = FETCHED) -> Path:
    """The directory of the run of this name. Raises InputError with those there are."""
    if not is_name(name) or not (runs / name / RECORD).is_file():
        raise InputError(no_such_run(runs, name, elsewhere=elsewhere))
    return runs / name
