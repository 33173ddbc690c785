"""Situations in which a run should not be deployed, told apart from a good cluster; tests of the preflight use them."""

from preflight_cases import (
    claim,
    cluster_queue,
    deployment,
    forbidden,
    inside,
    local_queue,
    missing,
    node,
    recipe,
    refused,
    rendered,
    running,
    served,
)

TAINT = {"key": "gpu", "value": "yes", "effect": "NoSchedule"}
HUB = {"model_name_or_path": "meta-llama/Llama-2-7b-hf", "model_revision": "0" * 40}
OLD_CRD = {"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": {"properties": {
    "spec": {"properties": {"runPolicy": {"properties": {"suspend": {}}}}}}}}}]}}  # fmt: skip
LARGE = {"per_rank": 40 * 2**30, "weights": 13 * 2**30, "activations": 25 * 2**30, "process": 6 * 10**8}
DENIED = {"spec": {"resourceAttributes": {"group": "batch", "resource": "jobs", "verb": "create"}}, "status": {}}
DENIED_EXEC = {
    "spec": {"resourceAttributes": {"resource": "pods", "subresource": "exec", "verb": "create"}},
    "status": {},
}
NO_CONFIG = "the connection to the server localhost:8080 was refused - did you specify the right host or port?"
POD_SECURITY = refused(
    'Error from server (Forbidden): pods "demo-0a1b2c3d-x" is forbidden: violates PodSecurity "restricted:latest": '
    'allowPrivilegeEscalation != false (container "trainer" must set securityContext.allowPrivilegeEscalation=false)'
)
WEBHOOK_DOWN = refused(
    'Error from server (InternalError): Internal error occurred: failed calling webhook "validator.pytorchjob": '
    'failed to call webhook: Post "https://training-operator.kubeflow.svc:443/validate": connect: connection refused'
)
GROUPS_WITHOUT_KUEUE = {"groups": [{"name": "batch", "versions": [{"version": "v1"}]}]}
NO_V2BETA1 = {("kubeflow.org", "v1"): served("pytorchjobs", "mpijobs")}
ABSENT = {"path": None, "beside": ["models/base", "models/other"]}
HALF = {"path": "models/base", "names": ["config.json"], "config": {"model_type": "llama"}, "weights": 0,
        "tokenizer": False, "missing": []}  # fmt: skip
WHOLE = {**HALF, "weights": 13 * 2**30, "tokenizer": True}
QUOTA = {
    "metadata": {"name": "team"},
    "spec": {"hard": {"requests.cpu": "8"}},
    "status": {
        "hard": {"requests.cpu": "8", "limits.memory": "64Gi"},
        "used": {"requests.cpu": "7", "limits.memory": "0"},
    },
}
EARLIER = {"name": "demo-1", "recipe": vars(recipe()), "layout": {}, "tokens": {"train": {"total": 10**9}},
           "rows": {"train": {"kept": 1000}}, "training": {"tokens_per_second": 100.0, "processes": 2}}  # fmt: skip
TOKEN = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub-token", "key": "HF_TOKEN"}}}


def changed_pod(runtime: str = "job", **changes: object) -> list[dict]:
    """A run's objects with something else in its pod's spec or container."""
    objects = rendered(runtime)
    spec = objects[0]["spec"]["template"]["spec"]
    spec["containers"][0] |= changes.pop("container", {})
    spec |= changes
    return objects


def queued(objects: list[dict]) -> list[dict]:
    """The same through a queue."""
    objects[0]["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "finetune"
    return objects


def affinity(key: str) -> dict:
    """A required node affinity for a label."""
    terms = [{"matchExpressions": [{"key": key, "operator": "Exists"}]}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def external_secret() -> dict:
    """An ExternalSecret of the run."""
    spec = {"secretStoreRef": {"name": "vault", "kind": "SecretStore"}, "target": {"name": "hub-token"}}
    return {"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "metadata": {"name": "hub"}, "spec": spec}


# Told apart from a good cluster: facts, the recipe, the runtime, what is rendered; its words lie in preflight_says.txt.
SITUATIONS: dict[str, dict] = {
    # ---- rights, namespace ----
    "no rights": {"facts": {"access": [DENIED, DENIED_EXEC]}},
    "no namespace": {"facts": {"namespace": missing("namespaces", "finetune")}},
    "namespace going away": {"facts": {"namespace": {"metadata": {}, "status": {"phase": "Terminating"}}}},
    "namespace may not be read": {"facts": {"namespace": forbidden("namespaces")}},
    # ---- operators ----
    "no operator": {"runtime": "pytorchjob", "facts": {"resources": {}}},
    "old operator by its image": {
        "runtime": "pytorchjob",
        "facts": {
            "deployments": {
                "training-operator": [deployment("training-operator", "docker.io/kubeflow/training-operator:v1.7.0")]
            }
        },
    },
    "old operator by its definition": {
        "runtime": "pytorchjob",
        "facts": {"deployments": {}, "definitions": {"pytorchjobs.kubeflow.org": OLD_CRD}},
    },
    "old operator by nothing": {"runtime": "pytorchjob", "facts": {"deployments": {}, "definitions": {}}},
    "operator without pods": {
        "runtime": "mpijob",
        "facts": {
            "deployments": {"mpi-operator": [deployment("mpi-operator", "mpioperator/mpi-operator:0.8.2", available=0)]}
        },
    },
    "operator's webhook down": {"runtime": "pytorchjob", "facts": {"probes": {"pytorchjobs": WEBHOOK_DOWN}}},
    "operator silent for long": {
        "runtime": "mpijob",
        "facts": {
            "deployments": {},
            "leases": {
                "mpi-operator": [
                    {"metadata": {"name": "mpi-operator"}, "spec": {"renewTime": "2026-11-21T11:00:00.000000Z"}}
                ]
            },
        },
    },
    "clashing MPIJob definitions": {"runtime": "mpijob", "facts": {"resources": NO_V2BETA1}},
    "no JobSet for TrainJob": {
        "runtime": "trainjob",
        "facts": {
            "groups": GROUPS_WITHOUT_KUEUE,
            "resources": {("trainer.kubeflow.org", "v1alpha1"): served("trainjobs")},
        },
    },
    # ---- Kueue ----
    "no Kueue": {"queue": "finetune", "facts": {"groups": GROUPS_WITHOUT_KUEUE}},
    "Kueue without PyTorchJob integration": {
        "runtime": "pytorchjob",
        "queue": "finetune",
        "facts": {"kueue_probe": {"spec": {"runPolicy": {}}}},
    },
    "Kueue's configuration without TrainJob": {
        "runtime": "trainjob",
        "queue": "finetune",
        "facts": {
            "kueue_probe": refused("denied"),
            "kueue_config": {"data": {"c.yaml": "integrations: {frameworks: [batch/job]}"}},
        },
    },
    "no queue": {"queue": "finetune", "facts": {"queues": (missing("localqueues", "finetune"), None)}},
    "queue not active": {
        "queue": "finetune",
        "facts": {"queues": (local_queue("False", "Can't submit new workloads to clusterQueue"), None)},
    },
    "queue's quota too small for ever": {
        "queue": "finetune",
        "facts": {"queues": (local_queue(), cluster_queue(cpu="1"))},
    },
    "full now, through a queue": {"queue": "finetune", "cpu": "2", "facts": {"pods": [running("n1", "3", "1Gi")]}},
    "resource that the queue does not cover": {
        "queue": "finetune",
        "objects": queued(changed_pod(container={"resources": {"limits": {"nvidia.com/gpu": "1"}}})),
        "facts": {"queues": (local_queue(), cluster_queue())},
    },
    # ---- admission ----
    "pod against PodSecurity": {"facts": {"dry_pods": [POD_SECURITY]}},
    "pod over the quota": {
        "facts": {
            "dry_pods": [
                refused(
                    'Error from server (Forbidden): pods "demo-x" is forbidden: exceeded quota: team, requested: '
                    "requests.cpu=16, "
                    "used: requests.cpu=0, limited: requests.cpu=8"
                )
            ]
        }
    },
    "field that the operator does not know": {
        "runtime": "pytorchjob",
        "facts": {
            "dry_objects": [
                refused(
                    'Error from server (BadRequest): PyTorchJob in version "v1" cannot be handled as a PyTorchJob: '
                    "strict decoding "
                    'error: unknown field "spec.elasticPolicy.foo"'
                )
            ]
        },
    },
    # ---- fit ----
    "two nodes asked of one": {"facts": {"nodes": [node("n1")]}},
    "too large for any node": {"cpu": "16", "memory": "64Gi"},
    "full now": {"cpu": "2", "facts": {"pods": [running("n1", "3", "1Gi"), running("n2", "500m", "1Gi")]}},
    "no GPU": {"objects": changed_pod(container={"resources": {"limits": {"nvidia.com/gpu": "8"}}})},
    "tainted nodes": {"facts": {"nodes": [node("n1", taints=[TAINT]), node("n2", taints=[TAINT])]}},
    "no node with the label": {
        "objects": changed_pod(affinity=affinity("feature.node.kubernetes.io/cpu-cpuid.AMXBF16"))
    },
    "cordoned and ill nodes": {"facts": {"nodes": [node("n1", unschedulable=True), node("n2", ready="Unknown")]}},
    "nodes may not be read": {"facts": {"nodes": forbidden("nodes")}},
    "quota of the namespace short": {"facts": {"quotas": [QUOTA]}},
    # ---- image ----
    "image missing on one node": {"facts": {"nodes": [node("n1"), node("n2", images=())]}},
    "image not built": {"image": "localhost/tunefleet:cpu-000000000000"},
    "list of images full": {"facts": {"nodes": [node("n1"), node("n2", images=tuple(f"x:{i}" for i in range(50)))]}},
    "image that a registry has to give": {"image": "registry.example/tunefleet@sha256:" + "a" * 64},
    # ---- what pods name ----
    "missing claim": {
        "facts": {
            "references": {
                ("ServiceAccount", "trainer"): {},
                ("PersistentVolumeClaim", "store"): missing("persistentvolumeclaims", "store"),
            }
        }
    },
    "missing secret": {
        "objects": changed_pod(container={"env": [TOKEN]}),
        "facts": {
            "references": {
                ("ServiceAccount", "trainer"): {},
                ("PersistentVolumeClaim", "store"): claim(),
                ("Secret", "hub-token"): missing("secrets", "hub-token"),
            }
        },
    },
    "secret without the key": {
        "objects": changed_pod(container={"env": [TOKEN]}),
        "facts": {
            "references": {
                ("ServiceAccount", "trainer"): {},
                ("PersistentVolumeClaim", "store"): claim(),
                ("Secret", "hub-token"): {"data": {"token": "c2VjcmV0"}},
            }
        },
    },
    "claim of one node for two": {
        "facts": {
            "references": {
                ("ServiceAccount", "trainer"): {},
                ("PersistentVolumeClaim", "store"): claim(mode="ReadWriteOnce"),
            }
        }
    },
    "claim of a class that is not there": {
        "facts": {
            "references": {
                ("ServiceAccount", "trainer"): {},
                ("PersistentVolumeClaim", "store"): claim("Pending", storage_class="nfs"),
            }
        }
    },
    "missing store of an external secret": {
        "objects": [*rendered(), external_secret()],
        "facts": {"secret_stores": {("SecretStore", "vault"): missing("secretstores", "vault")}},
    },
    # ---- store ----
    "nobody to look at the store": {"facts": {"inside": missing("deployments.apps", "data-access")}},
    "missing model": {"recipe": HUB, "facts": {"inside": inside(models=[ABSENT])}},
    "half a model": {"recipe": {"model_name_or_path": "models/base"}, "facts": {"inside": inside(models=[HALF])}},
    "missing data": {
        "recipe": {"train_file": "datasets/rows.jsonl"},
        "facts": {"inside": inside(data=[{"path": None, "beside": ["datasets/rows.json"]}])},
    },
    "store full": {
        "recipe": {"model_name_or_path": "models/base", "method": "full"},
        "facts": {"inside": inside(models=[WHOLE], free=20 * 2**30)},
    },
    "store not writable": {"facts": {"inside": inside(writable=False)}},
    # ---- memory, time, batch ----
    "too little memory": {"facts": {"estimates": {2: LARGE}}},
    "enough memory in bfloat16 only": {"facts": {"estimates": {2: LARGE | {"per_rank": 2**30}, 4: LARGE}}},
    "memory of a model nobody can look at": {"facts": {"estimates": "the model's config.json is not known"}},
    "longer than the deadline": {"facts": {"inside": inside(runs=[EARLIER])}},
}
