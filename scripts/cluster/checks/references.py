"""Question: is all there that the pods name? Claims, Secrets, ConfigMaps, ServiceAccount, priority class."""

from collections.abc import Iterator

from scripts.cluster.checks.answers import FAILED, PASSED, UNKNOWN, Answer, is_missing, not_told
from scripts.cluster.checks.shapes import PodSet, containers
from scripts.cluster.kubectl import Refused

QUESTION = "is all there that the pods name"
Reference = tuple[str, str, str]  # kind, name, key (of a Secret or ConfigMap; may be empty)
PATHS = {
    "Secret": "api/v1/namespaces/{namespace}/secrets/{name}",
    "ConfigMap": "api/v1/namespaces/{namespace}/configmaps/{name}",
    "PersistentVolumeClaim": "api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}",
    "ServiceAccount": "api/v1/namespaces/{namespace}/serviceaccounts/{name}",
    "PriorityClass": "apis/scheduling.k8s.io/v1/priorityclasses/{name}",
    "RuntimeClass": "apis/node.k8s.io/v1/runtimeclasses/{name}",
}
FIXES = {
    "Secret": "kubectl -n {namespace} create secret generic {name} --from-literal={key}=…",
    "ConfigMap": "have ConfigMap {name} made, or take out the component that names it",
    "PersistentVolumeClaim": "make cluster-setup NAMESPACE={namespace} makes the claim (STORAGE_CLASS=…)",
    "ServiceAccount": "make cluster-setup NAMESPACE={namespace} makes the ServiceAccount",
    "PriorityClass": "have the PriorityClass made, or take out the component that names it",
    "RuntimeClass": "have the RuntimeClass made, or take out the component that names it",
}


def references(sets: list[PodSet], objects: list[dict]) -> list[Reference]:
    """What the pods name and cannot do without, less what the run brings itself."""
    own = {(found["kind"], found["metadata"]["name"]) for found in objects}
    own |= {("Secret", filled(found)) for found in objects if found["kind"] == "ExternalSecret"}
    named = dict.fromkeys(reference for one in sets for reference in of_pod(one.spec))
    return [reference for reference in named if reference[:2] not in own]


def filled(external: dict) -> str:
    """The Secret that an ExternalSecret fills."""
    return (external["spec"].get("target") or {}).get("name") or external["metadata"]["name"]


def of_pod(spec: dict) -> Iterator[Reference]:
    """Everything one pod names and cannot do without."""
    if spec.get("serviceAccountName"):
        yield "ServiceAccount", spec["serviceAccountName"], ""
    if spec.get("priorityClassName"):
        yield "PriorityClass", spec["priorityClassName"], ""
    if spec.get("runtimeClassName"):
        yield "RuntimeClass", spec["runtimeClassName"], ""
    for secret in spec.get("imagePullSecrets") or []:
        yield "Secret", secret["name"], ".dockerconfigjson"
    for volume in spec.get("volumes") or []:
        yield from of_volume(volume)
    for container in containers(spec):
        yield from of_environment(container)


def of_volume(volume: dict) -> Iterator[Reference]:
    """What one volume names."""
    if "persistentVolumeClaim" in volume:
        yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"], ""
    sources = [volume, *(volume.get("projected") or {}).get("sources", [])]
    for source in sources:
        for kind, field in (("Secret", "secret"), ("ConfigMap", "configMap")):
            found = source.get(field) or {}
            name = found.get("secretName") or found.get("name")
            if name and not found.get("optional"):
                keys = [item["key"] for item in found.get("items") or []] or [""]
                yield from ((kind, name, key) for key in keys)


def of_environment(container: dict) -> Iterator[Reference]:
    """What a container's environment names."""
    for entry in container.get("env") or []:
        source = entry.get("valueFrom") or {}
        for kind, field in (("Secret", "secretKeyRef"), ("ConfigMap", "configMapKeyRef")):
            if field in source and not source[field].get("optional"):
                yield kind, source[field]["name"], source[field]["key"]
    for entry in container.get("envFrom") or []:
        for kind, field in (("Secret", "secretRef"), ("ConfigMap", "configMapRef")):
            if field in entry and not entry[field].get("optional"):
                yield kind, entry[field]["name"], ""


def path_of(reference: Reference, namespace: str) -> str:
    """Where the API has it."""
    return PATHS[reference[0]].format(namespace=namespace, name=reference[1])


def judge_references(named: list[Reference], namespace: str, facts: dict) -> list[Answer]:
    """One answer for each that is not there, or not known to be, and one for all that are."""
    answers, there = [], []
    for kind, name, key in named:
        found = facts["references"][kind, name]
        fix = FIXES[kind].format(namespace=namespace, name=name, key=key or "KEY")
        if key == ".dockerconfigjson":
            fix = f"kubectl -n {namespace} create secret docker-registry {name} --docker-server=… --docker-username=…"
        if is_missing(found):
            answers.append(Answer(FAILED, QUESTION, f"there is no {kind} {name}", fix))
        elif isinstance(found, Refused):
            answers.append(not_told(QUESTION, f"{kind} {name}", found))
        elif key and key not in {**(found.get("data") or {}), **(found.get("binaryData") or {})}:
            has = ", ".join(sorted(found.get("data") or {})) or "none"
            answers.append(Answer(FAILED, QUESTION, f"{kind} {name} has no key {key} (its keys: {has})", fix))
        else:
            there.append(f"{kind} {name}")
    if there:
        answers.append(Answer(PASSED, QUESTION, ", ".join(dict.fromkeys(there))))
    return answers


def judge_claims(named: list[Reference], nodes: int, facts: dict) -> list[Answer]:
    """Whether each claim can be mounted, by as many nodes as the run has."""
    question, answers = "can the store be mounted", []
    for _, name, _ in (reference for reference in named if reference[0] == "PersistentVolumeClaim"):
        claim = facts["references"]["PersistentVolumeClaim", name]
        if isinstance(claim, Refused):
            continue  # said by judge_references
        phase, modes = claim.get("status", {}).get("phase"), claim["spec"].get("accessModes") or []
        shared = "ReadWriteMany" in modes
        if claim["metadata"].get("deletionTimestamp"):
            answers.append(Answer(FAILED, question, f"claim {name} is being deleted", "wait, then make cluster-setup"))
        elif phase == "Lost":
            what = f"claim {name} has lost its volume"
            answers.append(Answer(FAILED, question, what, "have the volume restored, or the claim made anew"))
        elif not shared and nodes > 1:
            what = (
                f"claim {name} is {', '.join(modes)}, and {nodes} nodes have to mount it at once, as ReadWriteMany does"
            )
            fix = "PLACE=nodes=1, or make the claim anew in a class with ReadWriteMany (k8s/ has one for NFS)"
            answers.append(Answer(FAILED, question, what, fix))
        elif phase == "Pending":
            answers.append(judge_pending(question, claim, facts))
        else:
            size = (claim["status"].get("capacity") or {}).get("storage", "?")
            answers.append(Answer(PASSED, question, f"claim {name} is bound, {', '.join(modes)}, {size}"))
    return answers


def judge_pending(question: str, claim: dict, facts: dict) -> Answer:
    """A claim without a volume: bound when the first pod comes, or never."""
    name, asked = claim["metadata"]["name"], claim["spec"].get("storageClassName")
    classes = facts["storage_classes"]
    if isinstance(classes, list):
        found = next((one for one in classes if one["metadata"]["name"] == asked), None)
        if found is None:
            known = ", ".join(one["metadata"]["name"] for one in classes) or "none"
            what = f"claim {name} waits for storage class {asked or '(none)'}, which is not there (there is: {known})"
            return Answer(FAILED, question, what, "delete the claim and make cluster-setup STORAGE_CLASS=…")
        if found.get("volumeBindingMode") == "WaitForFirstConsumer":
            return Answer(PASSED, question, f"claim {name} is bound when the first pod comes (class {asked})")
    what = f"claim {name} is pending: no volume has been bound to it"
    return Answer(FAILED if isinstance(classes, list) else UNKNOWN, question, what, f"kubectl describe pvc {name}")


def external_stores(objects: list[dict]) -> list[tuple[str, str]]:
    """Kind and name of each store that the run's ExternalSecrets read from."""
    found = (one["spec"].get("secretStoreRef") or {} for one in objects if one["kind"] == "ExternalSecret")
    return list(dict.fromkeys((one.get("kind", "SecretStore"), one.get("name", "")) for one in found))


def judge_external(objects: list[dict], facts: dict) -> list[Answer]:
    """Whether the store that an ExternalSecret reads from is there and answers."""
    answers, question = [], "does the external secret's store answer"
    for kind, name in external_stores(objects):
        store = facts["secret_stores"].get((kind, name))
        if is_missing(store):
            fix = "have an administrator make it; for the hub's token that is cluster-setup's --token-from"
            answers.append(Answer(FAILED, question, f"there is no {kind} {name}", fix))
        elif isinstance(store, Refused) or store is None:
            refused = store or Refused("not asked", 1)
            answers.append(not_told(question, f"{kind} {name}", refused))
        else:
            ready = [one for one in store.get("status", {}).get("conditions") or [] if one["type"] == "Ready"]
            if ready and ready[0]["status"] == "True":
                answers.append(Answer(PASSED, question, f"{kind} {name} is ready"))
            else:
                said = (
                    ready[0].get("message", "not ready") if ready else "nobody has looked at it: is its operator there?"
                )
                answers.append(
                    Answer(FAILED, question, f"{kind} {name}: {said}", "have the store's credentials looked at")
                )
    return answers
