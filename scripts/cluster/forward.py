"""The way from this machine to a model that the cluster serves: port-forward, for one conversation."""

import argparse
import contextlib
import json
import re
import subprocess
from collections.abc import Iterator

from scripts.cluster.kubectl import Cluster, Refused
from scripts.cluster.serve_plan import ASKED, slug_of
from train.errors import InputError, problem


@contextlib.contextmanager
def forwarded(arguments: argparse.Namespace) -> Iterator[str]:
    """Its address on this machine; what its Deployment says of how it is asked goes into `arguments.told`.

    Raises InputError where nothing of that name is served, or is ready.
    """
    cluster, slug = Cluster(arguments.context, arguments.namespace), slug_of(arguments)
    which = f"RUN={arguments.run}" if arguments.run else f"MODEL={arguments.model}"
    try:
        deployment = cluster.get("deployment", f"serve-{slug}")
    except Refused as refused:
        fix = f"make cluster-check NAMESPACE={cluster.namespace} says whether the namespace is set up"
        raise InputError(problem(f"namespace {cluster.namespace}", "", str(refused), fix)) from None
    if deployment is None:
        what = f"is not served in namespace {cluster.namespace}"
        raise InputError(problem(which, "", what, f"make serve ON=cluster {which}; make serve-status lists what is"))
    if not deployment.get("status", {}).get("readyReplicas"):
        raise InputError(problem(which, "", "is not ready yet", "make serve-status says what holds it back"))
    arguments.told = json.loads(deployment["metadata"].get("annotations", {}).get(ASKED, "{}"))
    # In a session of its own: Ctrl-C stops an answer, and not the way to it.
    words = cluster.command("port-forward", "--address=127.0.0.1", f"deployment/serve-{slug}", ":8000")
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        yield f"http://127.0.0.1:{port_of(process, which)}/v1"
    finally:
        process.kill()
        process.communicate()


def port_of(process: subprocess.Popen, which: str) -> str:
    """The port that kubectl has opened here. Raises InputError where it opened none."""
    said = []
    for line in process.stdout:
        if found := re.match(r"Forwarding from 127\.0\.0\.1:(\d+)", line):
            return found[1]
        said.append(line.strip())
    fix = "the role deployer of make cluster-setup may (pods/portforward); make serve-status says how it stands"
    raise InputError(problem(which, "", f"cannot be reached by port-forward: {' '.join(said)[-300:]}", fix))
