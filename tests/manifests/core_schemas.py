"""Derive strict schemas of the core kinds that we write, from what an API server publishes of itself.

python -m tests.manifests.core_schemas     # asks kubectl's cluster, rewrites schemas/kubernetes

Objects are closed, so that a misspelt field is an error; descriptions, defaults and status are dropped. 108 MB of
kubernetes-validate would say the same of every kind there is.
"""

import json
import sys
from pathlib import Path
from typing import Any

from scripts.cluster.kubectl import Cluster

TARGET = Path(__file__).resolve().parents[2] / "schemas" / "kubernetes"
KINDS = {
    "api/v1": ["ConfigMap", "LimitRange", "Namespace", "PersistentVolumeClaim", "Pod", "PodTemplate", "ResourceQuota",
               "Service", "ServiceAccount"],
    "apis/apps/v1": ["Deployment"],
    "apis/batch/v1": ["Job"],
    "apis/networking.k8s.io/v1": ["NetworkPolicy"],
    "apis/rbac.authorization.k8s.io/v1": ["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"],
    "apis/storage.k8s.io/v1": ["StorageClass"],
    "apis/admissionregistration.k8s.io/v1": ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"],
}  # fmt: skip
REFERENCE = "#/components/schemas/"
QUANTITY, INT_OR_STRING = (
    "io.k8s.apimachinery.pkg.api.resource.Quantity",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
)
DROPPED = {"description", "default", "format"}
DNS = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"


def main() -> int:
    for path, kinds in KINDS.items():
        document = Cluster().raw(f"openapi/v3/{path}")["components"]["schemas"]
        for kind in kinds:
            name = next(key for key, value in document.items() if is_kind(value, kind, path))
            target = TARGET / f"{file_stem(path)}_{kind}.json"
            target.write_text(
                json.dumps(strict(document, name, path, kind), separators=(",", ":"), sort_keys=True) + "\n"
            )
            print(f"{target.name}: {target.stat().st_size / 1000:.0f} kB")
    return 0


def file_stem(path: str) -> str:
    """api/v1 as v1, apis/batch/v1 as batch_v1."""
    return "_".join(path.split("/")[1:])


def is_kind(spec: dict[str, Any], kind: str, path: str) -> bool:
    """Whether this schema is the kind itself, not a list of it."""
    group, _, version = path.removeprefix("apis/").removeprefix("api/").rpartition("/")
    wanted = {"group": group, "kind": kind, "version": version}
    return wanted in spec.get("x-kubernetes-group-version-kind", []) and "metadata" in spec["properties"]


def strict(document: dict[str, Any], name: str, path: str, kind: str) -> dict[str, Any]:
    """The schema of one kind with all that it refers to, closed."""
    parts: dict[str, Any] = {}
    waiting = [name]
    while waiting:
        part = waiting.pop()
        if part not in parts:
            parts[part] = closed(document[part], part, waiting)
    whole = parts.pop(name)
    group = path.removeprefix("apis/").removeprefix("api/")
    whole["properties"] |= {"apiVersion": {"const": group}, "kind": {"const": kind}}
    whole["required"] = sorted({"apiVersion", "kind", "metadata", *whole.get("required", [])})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **whole, "$defs": parts}


def closed(spec: Any, name: str, waiting: list[str]) -> Any:
    """A part of the schema without what needs no checking, its references put on the waiting list."""
    if name == QUANTITY:
        return {"type": ["string", "number"]}
    if name == INT_OR_STRING:
        return {"type": ["string", "integer"]}
    result = {}
    for key, value in spec.items():
        if key in DROPPED or key.startswith("x-kubernetes"):
            continue
        if key == "properties":
            kind = "x-kubernetes-group-version-kind" in spec  # whose status only the API server writes
            result[key] = {
                field: closed(part, "", waiting) for field, part in value.items() if not (kind and field == "status")
            }
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            result[key] = closed(value, "", waiting)
        elif key == "allOf":  # how a reference with a default or a description is written
            result |= closed(value[0], "", waiting)
        elif key == "$ref":
            waiting.append(value.removeprefix(REFERENCE))
            result[key] = value.replace(REFERENCE, "#/$defs/")
        else:
            result[key] = value
    if "properties" in result:
        result["additionalProperties"] = False
    if name.endswith("meta.v1.ObjectMeta"):
        result["properties"]["name"] |= {"maxLength": 253, "pattern": DNS}
    return result


if __name__ == "__main__":
    sys.exit(main())
