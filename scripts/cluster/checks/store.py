"""Questions: do model and data lie on the store, whole, and is there room for the run? Asked in the data-access pod."""

import json
from pathlib import Path
from types import SimpleNamespace

from scripts.cluster.checks.answers import FAILED, PASSED, UNKNOWN, Answer, is_missing, reason
from scripts.cluster.checks.quantity import size
from scripts.cluster.kubectl import Cluster, Refused, parse
from scripts.cluster.names import DATA_ACCESS, STORE
from train.errors import see

PROGRAM = Path(__file__).with_name("inside.py")
ROOT = Path(__file__).resolve().parents[3]
SECONDS = 60
POD_SECONDS = 3  # kubectl would wait a minute for a pod that does not run
DATA_SUFFIXES = (".json", ".jsonl", ".csv", ".parquet", ".txt", ".tsv")
NOT_RUNNING = ("unable to upgrade", "not running", "container not found", "no pods", "timed out waiting")
VARIABLES = {"train_file": "DATA", "dataset_name": "DATA", "validation_file": "VALIDATION_DATA"}


def in_image(name: str) -> bool:
    """Whether a path is one of the demo's, which every image carries."""
    return name.startswith("demo/") and (ROOT / name).exists()


def places(name: str, revision: str | None, folder: str) -> list[str | dict]:
    """Where a model or data set may lie on the store, in the order of looking; as inside.py takes them."""
    if name.startswith("/"):
        return [str(Path(name).relative_to(STORE))] if name.startswith(f"{STORE}/") else []
    if name.startswith(f"{folder}/"):
        return [name]
    return [{"home": f"{folder}/{name}", "revision": revision}, name]


def shown(where: list[str | dict]) -> str:
    """The places for people."""
    return " and ".join(one if isinstance(one, str) else f"{one['home']}/{one['revision'] or 'main'}" for one in where)


def wanted_data(recipe: SimpleNamespace) -> list[tuple[str, str, list[str | dict]]]:
    """The recipe's sources of rows: key, name, and where each may lie."""
    files = [(key, getattr(recipe, key)) for key in ("train_file", "validation_file") if getattr(recipe, key)]
    found = [(key, name, places(name, None, "datasets")[-1:]) for key, name in files]
    if recipe.dataset_name:
        name = recipe.dataset_name
        found.append(("dataset_name", name, places(name, recipe.dataset_revision, "datasets")))
    return found


def question(recipe: SimpleNamespace) -> dict:
    """What to ask the store of this recipe."""
    model = recipe.model_name_or_path
    models = [] if in_image(model) else [places(model, recipe.model_revision, "models")]
    data = [where for _, name, where in wanted_data(recipe) if not in_image(name)]
    return {"root": STORE, "models": models, "data": data, "runs": True}


def look_inside(cluster: Cluster, asked: dict) -> dict:
    """The store's answers, through the data-access pod."""
    pod = ("exec", "-i", f"deployment/{DATA_ACCESS}", "-c", DATA_ACCESS, f"--pod-running-timeout={POD_SECONDS}s")
    program = ("--", "python", "-I", "-", json.dumps(asked))
    return parse(cluster.run(*pod, *program, given=PROGRAM.read_text(), seconds=SECONDS))


def judge_store(recipe: SimpleNamespace, namespace: str, facts: dict) -> list[Answer]:
    """What is known of model, data and room."""
    inside, model = facts["inside"], recipe.model_name_or_path
    local = [("is the model there", model)] if in_image(model) else []
    local += [("is the data there", name) for _, name, _ in wanted_data(recipe) if in_image(name)]
    answers = [Answer(PASSED, asked, f"{name} is in the image") for asked, name in local]
    if isinstance(inside, Refused):
        return [*answers, no_access(inside)]
    asked = question(recipe)
    if asked["models"]:
        answers += judge_model(recipe, asked["models"][0], inside["models"][0], namespace)
    absent = [entry for entry in wanted_data(recipe) if not in_image(entry[1])]
    answers += [judge_data(entry, found, namespace) for entry, found in zip(absent, inside["data"], strict=True)]
    return [*answers, judge_room(recipe, inside)]


def no_access(refused: Refused) -> Answer:
    """The answer where nobody could look."""
    asked, text = "what lies on the store", str(refused)
    if is_missing(refused) or f'"{DATA_ACCESS}" not found' in text:
        what = f"there is no Deployment {DATA_ACCESS} to look with"
        return Answer(UNKNOWN, asked, what, "make cluster-setup makes it")
    if any(sign in text for sign in NOT_RUNNING):
        what = f"{DATA_ACCESS} does not run, so nobody can look"
        return Answer(UNKNOWN, asked, what, f"kubectl describe pod -l tunefleet.io/role={DATA_ACCESS}")
    return Answer(
        UNKNOWN, asked, f"{DATA_ACCESS} could not be asked: {reason(refused)}", f"kubectl logs deployment/{DATA_ACCESS}"
    )


def judge_model(recipe: SimpleNamespace, where: list[str | dict], found: dict, namespace: str) -> list[Answer]:
    """Whether the model is there, and whole."""
    asked = "is the model there"
    name, revision = recipe.model_name_or_path, recipe.model_revision
    called = f"{name} at revision {revision}" if revision and len(where) > 1 else name
    fetch = bring(namespace, "MODEL", where[0] if where else "models/…", name)
    if not where:
        fix = f"give a path relative to {STORE}, or below it: MODEL=models/…"
        return [Answer(FAILED, asked, f"{name} is a path outside the store", fix)]
    if found["path"] is None:
        beside = f"; beside it lie {', '.join(found['beside'])}" if found["beside"] else ""
        return [Answer(FAILED, asked, f"{called} is not on the store (looked for {shown(where)}){beside}", fetch)]
    path, holes = found["path"], []
    if found.get("wrong_size"):
        holes.append(f"not the sizes that were fetched: {', '.join(found['wrong_size'][:3])}")
    if not found["config"]:
        holes.append("no config.json")
    if not found["weights"]:
        holes.append("no *.safetensors")
    if not found["tokenizer"]:
        holes.append("no tokenizer")
    if found["missing"]:
        holes.append(f"not the weights {', '.join(found['missing'][:3])} that its index names")
    if holes:
        holds = ", ".join(found["names"][:6]) or "nothing"
        return [Answer(FAILED, asked, f"{path} has {'; '.join(holes)} (it holds {holds})", fetch)]
    return [Answer(PASSED, asked, f"{path}, {size(found['weights'])} of weights")]


def bring(namespace: str, variable: str, where: str | dict, name: str) -> str:
    """How files come to the store, or the recipe to where they are."""
    word = variable.removeprefix("VALIDATION_")
    if isinstance(where, dict):
        named = f"{word}={name}" + (f" REVISION={where['revision']}" if where["revision"] else "")
        fetch = f"make fetch-{word.lower()} ON=cluster {named}"
        return f"{fetch}; without network there make deliver {word}=…; or {variable}=… names another place on the store"
    path = f"{STORE}/{where}"
    pod = f"kubectl -n {namespace} exec -i deploy/{DATA_ACCESS} -- sh -c"
    if Path(path).suffix in DATA_SUFFIXES:
        copy = f"{pod} 'cat > {path}' < FILE"
    else:
        copy = f"tar -cC DIRECTORY . | {pod} 'mkdir -p {path} && tar -xC {path}'"
    return f"bring it there: {copy}; or {variable}=… names another place on the store"


def judge_data(entry: tuple[str, str, list[str | dict]], found: dict, namespace: str) -> Answer:
    """Whether one source of rows is there."""
    asked = "is the data there"
    key, name, where = entry
    if found["path"] is None:
        beside = f"; beside it lie {', '.join(found['beside'])}" if found["beside"] else ""
        looked = shown(where) or f"no path below {STORE}"
        fix = bring(namespace, VARIABLES[key], where[0] if where else "datasets/…", name)
        return Answer(FAILED, asked, f"{key} {name} is not on the store (looked for {looked}){beside}", fix)
    if found.get("wrong_size"):
        what = f"{found['path']} has not the sizes that were fetched: {', '.join(found['wrong_size'][:3])}"
        return Answer(FAILED, asked, what, bring(namespace, VARIABLES[key], where[0], name))
    if not found["size"]:
        return Answer(FAILED, asked, f"{found['path']} is empty", "bring it there again")
    files = "1 file" if found["files"] == 1 else f"{found['files']} files"
    return Answer(PASSED, asked, f"{found['path']}, {size(found['size'])} in {files}")


def judge_room(recipe: SimpleNamespace, inside: dict) -> Answer:
    """Whether checkpoints and the result find room; the same sum as train.preflight.check_place makes on a machine."""
    asked, model = "is there room on the store", recipe.model_name_or_path
    if not inside["writable"]:
        what = f"{STORE}/runs may not be written by user 1000, as which pods run"
        return Answer(FAILED, asked, what, "have the volume's owner or mode changed (fsGroup 1000 is asked for)")
    if in_image(model):
        weights = sum(path.stat().st_size for path in (ROOT / model).glob("*.safetensors"))
    elif inside["models"][0]["path"] is None:
        return Answer(
            UNKNOWN, asked, f"{size(inside['free'])} are free; how large the model is, is not known", "see the model"
        )
    else:
        weights = inside["models"][0]["weights"]
    each = weights * 2 * 3 if recipe.method == "full" else weights // 20
    needed = each * (recipe.save_total_limit + 1) + weights + 64 * 2**20
    if inside["free"] < needed:
        what = f"{size(inside['free'])} are free, and checkpoints and the result need about {size(needed)}"
        fix = f"make delete-run RUN=… gives back old runs' room; or lower save_total_limit{see('store-full')}"
        return Answer(FAILED, asked, what, fix)
    return Answer(PASSED, asked, f"{size(inside['free'])} free, about {size(needed)} needed")
