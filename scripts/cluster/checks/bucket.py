"""Questions of a run whose store is S3: do model and data lie in the bucket? Asked with the keys of whoever asks."""

import json
from pathlib import Path
from types import SimpleNamespace

from scripts.cluster.bucket import has_keys, reach
from scripts.cluster.checks.answers import FAILED, PASSED, UNKNOWN, Answer
from scripts.cluster.checks.quantity import number, size
from scripts.cluster.kubectl import Refused
from scripts.cluster.names import STORE
from scripts.s3.bring import NAMES, plan
from scripts.s3.manifest import Manifest, read_text
from scripts.s3.trouble import S3Failed
from train.errors import InputError

QUESTION = "do model and data lie in S3"
IMAGE = Path(__file__).resolve().parents[3]


def look(placement: dict, recipe: SimpleNamespace) -> dict:
    """What lies in the bucket, in the words of scripts/cluster/checks/inside.py where they mean the same.

    Raises Refused where it cannot be looked at.
    """
    bucket = placement["s3"]
    if not has_keys():
        raise Refused(f"{bucket['url']} was not looked at: this workstation has no credentials for S3", 1)
    told: dict = {"models": [], "data": [], "runs": [], "problems": [], "found": {}}
    try:
        client, store = reach(bucket)
        wanted = {key: getattr(recipe, key) for key in [*NAMES, *(key for _, key in NAMES.values() if key)]}
        told["found"] = plan(client, store, wanted, Path(STORE), IMAGE, {})
        path, model = told["found"].get(("model", recipe.model_name_or_path), ("", None))
        if isinstance(model, Manifest):
            weights = sum(entry["size"] for name, entry in model.files.items() if name.endswith(".safetensors"))
            config = json.loads(read_text(client, store / path, "config.json") or "null")
            told["models"] = [{"path": path, "config": config, "weights": weights}]
    except S3Failed as failed:
        raise Refused(str(failed), 1) from None
    except InputError as error:
        told["problems"] = error.problems
    return told


def judge_bucket(placement: dict, facts: dict) -> list[Answer]:
    """What is known of model and data in the bucket, and whether the node's volume is large enough for them."""
    inside, url = facts["inside"], placement["s3"]["url"]
    if isinstance(inside, Refused):
        fix = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY to have it looked at; the pod uses Secret s3-credentials"
        return [Answer(UNKNOWN, QUESTION, str(inside), fix)]
    answers = []
    for problem in inside["problems"]:
        what, _, fix = problem.partition("\n  fix: ")
        # Who asks may have other keys than the pod: only what is certainly not there is a failure.
        certain = "is not under" in what or "no such bucket" in what
        answers.append(Answer(FAILED if certain else UNKNOWN, QUESTION, what, fix))
    if inside["problems"]:
        return answers
    needed = sum(what if isinstance(what, int) else what.size for _, what in inside["found"].values())
    there = ", ".join(path for path, _ in inside["found"].values()) or "nothing: model and rows are in the image"
    answers.append(Answer(PASSED, QUESTION, f"under {url}: {there}"))
    asked, room = "is the pod's volume large enough", placement["s3"]["size"]
    if needed > number(room):
        what = f"s3.size is {room}, and model and rows alone are {size(needed)}"
        return [*answers, Answer(FAILED, asked, what, "PLACE=s3.size=…, with room for the result and checkpoints")]
    return [*answers, Answer(PASSED, asked, f"{room}, and model and rows are {size(needed)}")]
