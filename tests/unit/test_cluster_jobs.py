"""How a run stands, read from what the API server says of jobs, pods, queues and events; no cluster is asked.

.venv/bin/python -m pytest tests/unit/test_cluster_jobs.py
"""

import pytest

from scripts.cluster import words
from scripts.cluster.jobs import Job, choose, own_state, read_job, why_pending, why_queued
from scripts.cluster.pods import endings, first_dead, leader_of, state_of, why_waits

TIME = "2026-11-21T12:00:{:02}Z"


def pod(index: int = 0, states: tuple = (), phase: str = "Running", made: int = 0, **more) -> dict:
    """A pod of the run r with these container states."""
    labels = {"tunefleet.io/run": "r", "batch.kubernetes.io/job-completion-index": str(index)}
    statuses = [{"name": "trainer", "image": "registry.local/i:1", "restartCount": 0, **state} for state in states]
    limits = {"requests": {"cpu": "16", "memory": "64Gi"}, "limits": {"memory": "64Gi"}}
    return {
        "metadata": {"name": f"r-{index}-x{made}", "uid": f"{index}{made}", "labels": labels,
                     "creationTimestamp": TIME.format(made)},
        "spec": {"nodeName": "node1", "containers": [{"name": "trainer", "resources": limits}]},
        "status": {"phase": phase, "containerStatuses": statuses, **more},
    }  # fmt: skip


def ended(code: int, second: int = 0, **more) -> dict:
    """The state of a container that has ended."""
    return {"state": {"terminated": {"exitCode": code, "finishedAt": TIME.format(second), **more}}}


RUNNING = {"state": {"running": {"startedAt": TIME.format(0)}}}


def job(
    kind: str, spec: dict | None = None, conditions: tuple = (), pods: tuple = (), labels: dict | None = None
) -> Job:
    """A run whose object has these conditions, all true."""
    told = [{"type": name, "status": "True", "reason": reason, "message": said} for name, reason, said in conditions]
    meta = {
        "name": "r",
        "uid": "u",
        "creationTimestamp": TIME.format(0),
        "labels": {"tunefleet.io/run": "r", **(labels or {})},
    }
    return read_job(kind, {"metadata": meta, "spec": spec or {}, "status": {"conditions": told}}, list(pods))


@pytest.mark.parametrize(
    ("kind", "condition"),
    [("job", "Complete"), ("pytorchjob", "Succeeded"), ("mpijob", "Succeeded"), ("trainjob", "Complete")],
)
def test_every_kind_is_complete_when_it_says_so(kind, condition):
    assert job(kind, conditions=((condition, "", ""),), pods=(pod(states=(RUNNING,)),)).state == "complete"


def test_a_failed_job_tells_what_its_pod_died_of_and_not_that_a_limit_was_reached():
    dead = pod(states=(ended(137, reason="OOMKilled"),), phase="Failed")
    found = job("job", conditions=(("Failed", "BackoffLimitExceeded", "Job has reached the limit"),), pods=(dead,))
    assert found.state == "failed"
    assert found.reason == "pod r-0-x0 on node1 was killed because it needed more memory than its limit of 64Gi"


def test_a_job_whose_pods_are_gone_tells_its_own_word():
    found = job("mpijob", conditions=(("Failed", "BackoffLimitExceeded", "too often"),))
    assert (found.state, found.reason) == ("failed", "too often")


def test_a_deadline_is_told_as_one():
    assert job("job", conditions=(("Failed", "DeadlineExceeded", "x"),)).reason == "took longer than its deadline"


def test_a_suspended_job_is_queued_only_with_a_queue():
    for kind, spec in (("job", {"suspend": True}), ("pytorchjob", {"runPolicy": {"suspend": True}})):
        assert job(kind, spec).state == "suspended"
        assert job(kind, spec, labels={"kueue.x-k8s.io/queue-name": "finetune"}).state == "queued"


def test_a_job_is_pending_until_a_container_runs():
    assert job("trainjob", pods=(pod(phase="Pending"),)).state == "pending"
    assert job("trainjob", pods=(pod(states=(RUNNING,)), pod(1, phase="Pending"))).state == "running"
    assert job("job").state == "pending"


def test_a_pod_that_is_leaving_does_not_count_as_running():
    leaving = pod(states=(RUNNING,))
    leaving["metadata"]["deletionTimestamp"] = TIME.format(1)
    assert state_of(leaving) == "leaving"
    assert own_state(job("job", pods=(leaving,)))[0] == "pending"


def test_the_newest_pod_with_index_0_leads_and_a_launcher_before_all():
    pods = [pod(1), pod(0), pod(0, made=5)]
    assert leader_of(pods)["metadata"]["name"] == "r-0-x5"
    launcher = pod(0)
    launcher["metadata"]["labels"] |= {"tunefleet.io/role": "launcher"}
    assert leader_of([*pods, launcher]) is launcher
    assert leader_of([pod(1)]) is None


def test_the_rank_that_died_first_is_named_and_not_those_that_lost_it():
    pods = [
        pod(0, (ended(143, 9, message="lost its peers"),), "Failed"),
        pod(1, (ended(1, 5, message="the disk is full"),), "Failed"),
        pod(2, (ended(1, 7, message="connection closed"),), "Failed"),
    ]
    assert first_dead(endings(pods)).sentence() == "pod r-1-x0 on node1 ended with exit code 1: the disk is full"


def test_of_several_attempts_the_last_one_is_told():
    pods = [pod(0, (ended(137, 1),), "Failed"), pod(0, (ended(2, 9, message="bad recipe"),), "Failed", made=3)]
    assert first_dead(endings(pods)).cause == "ended with exit code 2: bad recipe"


def test_an_eviction_is_told_with_its_reason():
    gone = pod(0, (), "Failed", reason="Evicted", message="The node was low on resource: memory.")
    assert endings([gone])[0].sentence() == "pod r-0-x0 on node1 was evicted: The node was low on resource: memory."
    drained = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    assert "drained" in endings([pod(0, (ended(143),), "Failed", conditions=[drained])])[0].cause


# ---- why one waits ----


def unschedulable(message: str) -> dict:
    said = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]
    waits = pod(0, (), "Pending", conditions=said)
    del waits["spec"]["nodeName"]
    return waits


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("0/4 nodes are available: 2 Insufficient cpu, 2 node(s) had untolerated taint {testbed.local/simulated: }. "
         "no new claims to deallocate, preemption: 0/4 nodes are available: 4 x.",
         "no node of 4 can take it (a pod asks cpu 16, memory 64Gi): 2 have too little cpu free, "
         "2 have a taint (testbed.local/simulated) that the pod does not tolerate"),
        ("0/1 nodes are available: 1 node(s) were unschedulable. preemption: x",
         "no node of 1 can take it: 1 has been cordoned"),
        ("0/3 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }, "
         "2 node(s) didn't match Pod's node affinity/selector.",
         "no node of 3 can take it: 1 does not answer, 2 have not the labels that are asked for"),
        ('0/2 nodes are available: persistentvolumeclaim "store" not found. not found',
         "the volume claim store is missing: make cluster-setup makes it"),
        ("0/2 nodes are available: 2 something new.", "no node of 2 can take it: 2 something new"),
        ("words nobody knows", "words nobody knows"),
    ],
)  # fmt: skip
def test_the_schedulers_sum_is_told_in_plain_words(said, told):
    assert why_waits(unschedulable(said), []) == f"pod r-0-x0 waits: {told}"


def test_a_missing_image_names_node_image_and_cause():
    waits = pod(0, ({"state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off"}}},), "Pending")
    about = {"involvedObject": {"name": "r-0-x0"}, "reason": "Failed"}
    events = [
        {**about, "lastTimestamp": TIME.format(2), "message": "Error: ImagePullBackOff"},
        {**about, "lastTimestamp": TIME.format(1), "message": 'Failed to pull image "i": manifest: not found'},
    ]
    assert why_waits(waits, events) == "node1 cannot get the image registry.local/i:1: the registry has no such image"
    waits["status"]["containerStatuses"][0]["image"] = "localhost/tunefleet:cpu-1"
    assert "make push" in why_waits(waits, events)


def test_a_missing_secret_is_told():
    state = {"state": {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "hub-token" not found'}}}
    assert (
        why_waits(pod(0, (state,), "Pending"), []) == 'pod r-0-x0 cannot start on node1: secret "hub-token" not found'
    )


def test_a_volume_that_does_not_mount_is_told():
    event = {"involvedObject": {"name": "r-0-x0"}, "reason": "FailedMount", "message": 'configmap "recipe" not found'}
    assert 'configmap "recipe" not found' in why_waits(pod(0, (), "Pending"), [event])


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ('pods "r-0-abc" is forbidden: exceeded quota: team, requested: limits.cpu=64, used: limits.cpu=32, '
         "limited: limits.cpu=64",
         "the quota team is used up: it asks limits.cpu=64, used are limits.cpu=32 of limits.cpu=64"),
        ('pods "r-0-abc" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true',
         "the namespace's pod security (restricted:latest) refuses its pods: runAsNonRoot != true"),
        ('pods "r-0" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi',
         "its pods are refused: maximum memory usage per Container is 1Gi, but limit is 2Gi"),
    ],
)  # fmt: skip
def test_refused_pods_are_told_with_the_numbers(said, told):
    assert words.from_admission(said) == told


def test_a_job_without_pods_tells_the_refusal_of_them(monkeypatch):
    monkeypatch.setattr("scripts.cluster.jobs.age", lambda when: 1.0)
    event = {"involvedObject": {"kind": "Job", "name": "r-node-0"}, "reason": "FailedCreate", "metadata": {},
             "lastTimestamp": TIME.format(1), "message": 'pods "a" is forbidden: no'}  # fmt: skip
    assert why_pending(job("trainjob"), [event]) == "its pods are refused: no"
    event["involvedObject"]["name"] = "other"
    assert why_pending(job("trainjob"), [event]) == "its pods are being made"


def workload(uid: str, second: int, priority: int = 0, reserved: str = "False", said: str = "") -> dict:
    condition = {"type": "QuotaReserved", "status": reserved, "message": said}
    return {
        "metadata": {"ownerReferences": [{"uid": uid}], "creationTimestamp": TIME.format(second)},
        "spec": {"queueName": "finetune", "priority": priority},
        "status": {"conditions": [condition]},
    }


def test_a_queued_job_tells_its_place_and_what_the_queue_lacks():
    waits = job("job", {"suspend": True}, labels={"kueue.x-k8s.io/queue-name": "finetune"})
    said = ("couldn't assign flavors to pod set main: insufficient unused quota for cpu in flavor default-flavor, "
            "8 more needed")  # fmt: skip
    line = [
        workload("a", 1),
        workload("u", 2, said=said),
        workload("b", 3, priority=5),
        workload("c", 0, reserved="True"),
    ]
    told = "waits in the queue finetune, place 3 of 3: the queue is full: 8 more cpu needed (flavor default-flavor)"
    assert why_queued(waits, line) == told
    assert "has not looked at it yet" in why_queued(waits, [])


def test_of_several_runs_the_one_that_is_not_over_is_meant():
    old, new = job("job"), job("job", conditions=(("Complete", "", ""),))
    new.object["metadata"]["creationTimestamp"] = TIME.format(9)
    assert choose([new, old]) is old
    assert choose([]) is None
