"""`make cluster-setup`, `cluster-check` and `cluster-remove` on a real cluster: repeated, disturbed, taken back."""

import json
import time

import pytest

from tests.cluster.teams import end_team, image, kubectl, make_team, pod, setup, tried

pytestmark = pytest.mark.cluster

TEAM = "ft-kset"
WHO = "anna"


@pytest.fixture(scope="module")
def team(cluster):
    """A team's namespace for the tests of this file; its name."""
    try:
        make_team(TEAM, "--deployers", f"user:{WHO}", "--quota", "requests.cpu=4")
        yield TEAM
    finally:
        end_team(TEAM)


def lines(done) -> dict[str, str]:
    """What a program said of each object: {name: state and the rest}."""
    found = {}
    for line in done.stdout.splitlines():
        state, rest = line[:10].strip(), line[10:]
        name, _, more = rest.partition(":")
        found[name] = f"{state}{more}"
    return found


# ---- apply, check ----


def test_a_second_setup_changes_nothing_and_needs_not_be_told_again(team):
    done = setup("apply", team, "--image", image())
    assert done.returncode == 0, done.stderr
    states = [state for name, state in lines(done).items() if "/" in name]
    assert len(states) > 20
    assert set(states) == {"unchanged"}
    assert "store (" in done.stdout.splitlines()[-1]


def test_a_check_of_what_was_set_up_finds_all_as_wanted(team):
    done = setup("check", team)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "all as wanted"), done.stdout
    assert "unknown   whether NetworkPolicies are enforced" in done.stdout


def patch(kind: str, name: str, change: dict, *words: str) -> None:
    kubectl("patch", kind, name, "--namespace", TEAM, "--type=merge", "--patch", json.dumps(change), *words)


def test_a_check_finds_each_deviation_and_a_setup_mends_all(team):
    namespaced = ["--namespace", team]
    kubectl("delete", "networkpolicy", "dns", *namespaced)
    kubectl("label", "namespace", team, "pod-security.kubernetes.io/enforce=baseline", "--overwrite")
    patch("resourcequota", "finetune", {"spec": {"hard": {"pods": "9"}}})
    patch("limitrange", "finetune", {"spec": {"limits": [{"type": "Container", "defaultRequest": {"cpu": "2"}}]}})
    patch("serviceaccount", "trainer", {"automountServiceAccountToken": True})
    patch("networkpolicy", "default-deny", {"spec": {"egress": [{}]}})
    patch("networkpolicy", "fetch", {"spec": {"egress": [{"ports": [{"port": 443, "protocol": "TCP"}]}]}})
    patch("role", "deployer", {"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]})
    patch("rolebinding", "deployer", {"subjects": []})
    patch("deployment", "data-access", {"spec": {"replicas": 0}})
    kubectl("delete", "clusterrolebinding", f"tunefleet-preflight-{team}")
    found = lines(setup("check", team))
    assert found["networkpolicy/dns"] == "missing"
    assert found[f"clusterrolebinding/tunefleet-preflight-{team}"] == "missing"
    assert "enforce is baseline, wanted restricted" in found[f"namespace/{team}"]
    assert found["resourcequota/finetune"] == "differs spec.hard.pods is 9, wanted 500"
    assert "defaultRequest.cpu is 2, wanted 100m" in found["limitrange/finetune"]
    assert found["serviceaccount/trainer"] == "differs automountServiceAccountToken is true, wanted false"
    assert "spec.egress is [{}], wanted not there" in found["networkpolicy/default-deny"]
    assert "spec.egress[0].to is not there" in found["networkpolicy/fetch"]
    assert "rules" in found["role/deployer"]
    assert "subjects is not there, wanted" in found["rolebinding/deployer"]
    assert "spec.replicas is 0, wanted 1" in found["deployment/data-access"]
    assert found["persistentvolumeclaim/store"] == "as wanted"
    assert setup("check", team).returncode == 1
    mended = setup("apply", team, "--image", image())
    assert mended.returncode == 0, mended.stdout + mended.stderr
    assert lines(mended)["networkpolicy/dns"] == "created"
    assert setup("check", team).returncode == 0


def test_a_check_names_policies_that_are_not_ours(team):
    kubectl("create", "--filename", "-", given=json.dumps({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "open-all", "namespace": team}, "spec": {"podSelector": {}, "ingress": [{}]},
    }))  # fmt: skip
    assert "further   networkpolicy/open-all: not ours" in setup("check", team).stdout
    kubectl("delete", "networkpolicy", "open-all", "--namespace", team)


def test_a_check_of_nothing_finds_all_missing_and_makes_nothing(cluster):
    done = setup("check", "ft-knothing")
    assert done.returncode == 1
    assert lines(done)["namespace/ft-knothing"] == "missing"
    assert tried("get", "namespace", "ft-knothing").returncode == 1


def test_what_cannot_be_of_a_store_is_said_before_anything_is_applied(team):
    done = setup("apply", team, "--image", image(), "--storage-size", "1Gi", "--storage-class", "other")
    assert done.returncode == 2
    assert "the store has 10Gi already, and a claim never shrinks" in done.stderr
    assert "STORAGE_CLASS: other: the store is of class" in done.stderr


def test_a_namespace_of_somebody_else_is_left_alone(cluster):
    done = setup("apply", "kube-system", "--image", image())
    assert done.returncode == 2
    assert "is there, is not tunefleet's" in done.stderr
    assert setup("remove", "kube-system").returncode == 2


def test_a_store_that_gets_no_volume_ends_the_wait_with_the_reason(cluster):
    try:
        words = ["--storage-class", "there-is-none", "--cluster-queue", "ft-kstore", "--wait", "6"]
        done = setup("apply", "ft-kstore", "--image", image(), *words)
        assert done.returncode == 1
        assert "the claim has no volume" in done.stderr
        assert 'storageclass.storage.k8s.io "there-is-none" not found' in done.stderr
    finally:
        end_team("ft-kstore")


# ---- limits ----


def asked(change: dict) -> dict | str:
    """What the API server would make of a pod whose container has these fields, or why it refuses."""
    thing = pod("asked", TEAM, {})
    thing["spec"]["containers"][0] |= change
    done = tried("create", "--dry-run=server", "--output", "json", "--filename", "-", given=json.dumps(thing))
    return json.loads(done.stdout)["spec"]["containers"][0] if done.returncode == 0 else done.stderr


def test_a_container_without_requests_gets_small_ones_and_no_limits(team):
    assert asked({"resources": {}})["resources"] == {"requests": {"cpu": "100m", "memory": "128Mi"}}
    large = {"requests": {"cpu": "2", "memory": "64Gi"}}
    assert asked({"resources": large})["resources"] == large


def test_the_quota_refuses_what_is_too_much(team):
    assert "exceeded quota: finetune, requested: requests.cpu=5" in asked({"resources": {"requests": {"cpu": "5"}}})
    service = ["create", "service", "nodeport", "open", "--tcp=80", "--namespace", TEAM, "--dry-run=server"]
    assert "services.nodeports" in tried(*service).stderr


def test_a_pod_that_is_not_restricted_is_refused(team):
    assert 'violates PodSecurity "restricted:v1.34"' in asked({"securityContext": {"privileged": True}})


# ---- rights ----

ALL = ("get", "list", "watch", "create", "update", "patch", "delete")
MAY = [
    ("batch", "jobs", ALL), ("kubeflow.org", "pytorchjobs", ALL), ("kubeflow.org", "mpijobs", ALL),
    ("trainer.kubeflow.org", "trainjobs", ALL), ("trainer.kubeflow.org", "trainingruntimes", ALL),
    ("", "configmaps", ALL), ("", "services", ALL), ("networking.k8s.io", "networkpolicies", ALL),
    ("", "pods", ("get", "list", "watch", "delete")), ("", "pods/log", ("get",)), ("", "pods/exec", ("create",)),
    ("apps", "deployments", ALL), ("", "pods/portforward", ("get", "create")),
    ("", "events", ("list", "watch")), ("", "persistentvolumeclaims", ("get", "list")),
    ("", "resourcequotas", ("list",)), ("kueue.x-k8s.io", "workloads", ("list", "watch")), ("", "namespaces", ("get",)),
]  # fmt: skip
MAY_NOT = [
    ("", "secrets", ALL), ("", "serviceaccounts/token", ("create",)), ("", "serviceaccounts", ("create", "update")),
    ("", "pods/ephemeralcontainers", ("update", "patch")), ("", "pods/proxy", ("get", "create")),
    ("", "persistentvolumeclaims", ("create", "update", "patch", "delete")),
    ("", "resourcequotas", ("create", "update", "patch", "delete")), ("", "limitranges", ("update", "delete")),
    ("rbac.authorization.k8s.io", "roles", ALL), ("rbac.authorization.k8s.io", "rolebindings", ALL),
    ("apps", "daemonsets", ("create",)), ("apps", "statefulsets", ("create",)),
    ("kueue.x-k8s.io", "localqueues", ("create", "update", "delete")), ("", "namespaces", ("update", "delete")),
    ("external-secrets.io", "externalsecrets", ("create", "update")),
]  # fmt: skip
MAY_IN_CLUSTER = [
    ("", "nodes", ("get", "list")), ("", "pods", ("list",)), ("storage.k8s.io", "storageclasses", ("list",)),
    ("apiextensions.k8s.io", "customresourcedefinitions", ("get",)), ("kueue.x-k8s.io", "clusterqueues", ("get",)),
]  # fmt: skip
MAY_NOT_IN_CLUSTER = [
    ("", "nodes", ("update", "patch", "delete")), ("", "nodes/proxy", ("get",)), ("", "pods", ("get", "create")),
    ("", "secrets", ("get", "list")), ("", "configmaps", ("get", "list")), ("batch", "jobs", ("list", "create")),
    ("kueue.x-k8s.io", "clusterqueues", ("create", "update")), ("", "persistentvolumes", ("list", "delete")),
]  # fmt: skip


def answers(rights: list[tuple], namespace: str) -> dict[tuple, bool]:
    """What the deployer may, of these: group, resource, verbs. The namespace is empty for the whole cluster."""
    questions = [(group, resource, verb) for group, resource, verbs in rights for verb in verbs]
    reviews = []
    for group, resource, verb in questions:
        resource, _, part = resource.partition("/")
        attributes = {"group": group, "resource": resource, "subresource": part, "verb": verb, "namespace": namespace}
        spec = {"user": WHO, "resourceAttributes": attributes}
        reviews.append({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec})
    given = json.dumps({"apiVersion": "v1", "kind": "List", "items": reviews})
    text = kubectl("create", "--filename", "-", "--output", "jsonpath={.status.allowed}{'\\n'}", given=given)
    return dict(zip(questions, [word == "true" for word in text.split()], strict=True))


def test_whoever_deploys_may_run_follow_and_end_runs(team):
    assert [right for right, may in answers(MAY, team).items() if not may] == []


def test_whoever_deploys_may_not_read_secrets_or_change_the_setup(team):
    assert [right for right, may in answers(MAY_NOT, team).items() if may] == []


def test_whoever_deploys_sees_of_the_cluster_what_preflight_asks_and_no_more(team):
    assert [right for right, may in answers(MAY_IN_CLUSTER, "").items() if not may] == []
    assert [right for right, may in answers(MAY_NOT_IN_CLUSTER, "").items() if may] == []


def test_whoever_deploys_has_no_rights_in_another_namespace(team):
    may = [right for right, may in answers(MAY, "default").items() if may]
    assert [right for right in may if right != ("", "pods", "list")] == []


def test_training_pods_have_no_rights_at_all(team):
    account = f"--as=system:serviceaccount:{team}:trainer"
    assert tried("auth", "can-i", "list", "pods", "--namespace", team, account).returncode == 1


# ---- remove ----


def test_remove_leaves_the_data_and_a_new_setup_finds_it(team):
    kept = ["exec", "--namespace", team, "deploy/data-access", "--"]
    kubectl(*kept, "sh", "-c", "echo learned > /store/runs/kept")
    done = setup("remove", team)
    assert done.returncode == 0, done.stderr
    left = kubectl("get", "deployments,networkpolicies,roles,resourcequotas,localqueues,pvc", "-n", team, "-o", "name")
    assert left.split() == ["persistentvolumeclaim/store"]
    assert tried("get", "clusterrolebinding", f"tunefleet-preflight-{team}").returncode == 1
    assert tried("get", "clusterqueue", team).returncode == 1
    make_team(team, "--deployers", f"user:{WHO}")
    assert kubectl(*kept, "cat", "/store/runs/kept").strip() == "learned"


def test_remove_refuses_while_a_run_goes_on(team):
    thing = pod("rank", team, {"tunefleet.io/run": "medical-1a2b3c4d", "tunefleet.io/role": "trainer"})
    kubectl("create", "--filename", "-", given=json.dumps(thing))
    done = setup("remove", team, "--delete-data", given=f"{team}\n")
    assert (done.returncode, "runs are going on: medical-1a2b3c4d" in done.stderr) == (2, True)
    kubectl("delete", "pod", "rank", "--namespace", team)


def test_an_image_that_no_node_has_ends_the_wait_with_the_reason(team):
    done = setup("apply", team, "--image", "localhost/tunefleet:cpu-nowhere", "--wait", "15")
    assert done.returncode == 1
    assert "data-access: not ready after 15 s: " in done.stderr
    assert "cpu-nowhere" in done.stderr


def test_data_go_only_when_the_name_is_typed(team):
    done = setup("remove", team, "--delete-data", given="yes\n")
    assert (done.returncode, "nothing was removed" in done.stderr) == (1, True)
    assert kubectl("get", "persistentvolumeclaim,deployment", "--namespace", team, "--output", "name").count("/") == 2
    started = time.monotonic()
    done = setup("remove", team, "--delete-data", given=f"{team}\n")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 120
    assert tried("get", "namespace", team).returncode == 1
