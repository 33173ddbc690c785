"""PodSecurity `restricted` for every pod that an object will make, wherever in the object its template stands.

An API server judges only pods: a job whose pods break the rules is admitted, and then makes none.
"""

from collections.abc import Iterator
from typing import Any

VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected",
           "secret"}  # fmt: skip
SYSCTLS = {"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
           "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports"}  # fmt: skip
PodSpec = dict[str, Any]


def pod_specs(value: Any, path: str = "") -> Iterator[tuple[str, PodSpec]]:
    """Every PodSpec in an object, with where it stands: whatever holds a list of containers."""
    if isinstance(value, dict):
        if isinstance(value.get("containers"), list):
            yield path, value
        for key, inside in value.items():
            yield from pod_specs(inside, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for number, inside in enumerate(value):
            yield from pod_specs(inside, f"{path}[{number}]")


def containers_of(pod: PodSpec) -> list[dict[str, Any]]:
    """All containers of a pod, of all three kinds."""
    return [one for key in ("initContainers", "containers", "ephemeralContainers") for one in pod.get(key, [])]


def violations(pod: PodSpec) -> Iterator[str]:
    """What a namespace that enforces `restricted` would refuse."""
    context = pod.get("securityContext", {})
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield key
    for volume in pod.get("volumes", []):
        kinds = set(volume) - {"name"}
        if not kinds <= VOLUMES:
            yield f"volume {volume['name']}: {', '.join(sorted(kinds - VOLUMES))}"
    for sysctl in context.get("sysctls", []):
        if sysctl["name"] not in SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    yield from common_violations("pod", context)
    for container in containers_of(pod):
        yield from container_violations(container, context)


def common_violations(who: str, context: dict[str, Any]) -> Iterator[str]:
    """Of a security context, be it the pod's or a container's."""
    if context.get("runAsUser") == 0:
        yield f"{who}: runAsUser 0"
    if "seLinuxOptions" in context or "windowsOptions" in context:
        yield f"{who}: seLinuxOptions or windowsOptions"
    if context.get("appArmorProfile", {}).get("type", "RuntimeDefault") == "Unconfined":
        yield f"{who}: AppArmor unconfined"


def container_violations(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    """Of one container, with the pod's security context for what it leaves open."""
    who, own = container["name"], container.get("securityContext", {})
    yield from common_violations(who, own)
    if own.get("privileged"):
        yield f"{who}: privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{who}: allowPrivilegeEscalation is not false"
    if own.get("procMount", "Default") != "Default":
        yield f"{who}: procMount"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield f"{who}: capabilities.drop lacks ALL"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"{who}: capabilities.add"
    if own.get("runAsNonRoot", pod.get("runAsNonRoot")) is not True:
        yield f"{who}: runAsNonRoot is not true"
    if own.get("seccompProfile", pod.get("seccompProfile", {})).get("type") not in ("RuntimeDefault", "Localhost"):
        yield f"{who}: no seccompProfile"
    if any("hostPort" in port for port in container.get("ports", [])):
        yield f"{who}: hostPort"
    probes = [container.get(key, {}) for key in ("livenessProbe", "readinessProbe", "startupProbe")]
    hooks = list(container.get("lifecycle", {}).values())
    for action in [*probes, *hooks]:
        if any("host" in action.get(kind, {}) for kind in ("httpGet", "tcpSocket")):
            yield f"{who}: a probe or hook that names a host"
