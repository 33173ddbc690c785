"""Brings the image that `make image` built to a registry, or straight to nodes; says who has it; takes it away.

    python -m scripts.push push --registry registry.example.org/team
    python -m scripts.push push --inventory ansible/inventory.yml --limit node3 --check
    python -m scripts.push check --inventory ansible/inventory.yml
    python -m scripts.push remove --inventory ansible/inventory.yml

Nodes are served by the playbooks in ansible/; registries by skopeo, with the credentials of its own login (or
Podman's, or Docker's). What was done lies in build/push.json. Exit status: 0 done, 1 a node or the registry failed, 2
bad input, 130 stopped by Ctrl-C; the same command goes on.
"""

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from scripts.image_builder import HOW
from scripts.image_inputs import ROOT
from scripts.image_layout import BUILD, RECORD
from train.errors import InputError, problem, run_program
from train.files import write_json

RESULT = BUILD / "push.json"
PLAYBOOKS = ROOT / "ansible"
OWN_INVENTORY = PLAYBOOKS / "inventory.yml"


def main() -> int:
    settings = parse_arguments()
    problems = check(settings)
    if problems:
        raise InputError(problems)
    if settings.registry:
        return push_to_registry(settings)
    return run_playbook(settings)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("push", "check", "remove"))
    parser.add_argument("--registry", default="", help="registry and path to push to, for instance host/team")
    parser.add_argument("--registry-insecure", action="store_true", help="the registry speaks plain HTTP")
    parser.add_argument(
        "--inventory", default="", help="Ansible inventory; default: $ANSIBLE_INVENTORY, ansible/inventory.yml"
    )
    parser.add_argument("--limit", default="", help="only these nodes of the inventory")
    parser.add_argument("--check", action="store_true", help="say what would happen, change nothing")
    parser.add_argument("--force", action="store_true", help="remove although containers use the image")
    parser.add_argument(
        "--ansible-flags", default="", help="more for ansible-playbook: --ansible-flags='-v --ask-become-pass'"
    )
    settings = parser.parse_args()
    settings.inventory = settings.inventory or ("" if settings.registry else default_inventory())
    return settings


def default_inventory() -> str:
    return os.environ.get("ANSIBLE_INVENTORY", "") or (str(OWN_INVENTORY) if OWN_INVENTORY.exists() else "")


def check(settings: argparse.Namespace) -> list[str]:
    """What is wrong with the wishes, all at once."""
    problems = []
    if not RECORD.exists():
        problems.append(problem(RECORD.relative_to(ROOT), "file", "is not there: no image was built", "make image"))
    if settings.registry and settings.inventory:
        problems.append(
            problem("REGISTRY and INVENTORY", settings.registry, "only one of them at a time", "leave one out")
        )
    if settings.registry and settings.what != "push":
        problems.append(problem("REGISTRY", settings.registry, "this target asks nodes", "INVENTORY=file instead"))
    if settings.registry and "://" in settings.registry:
        problems.append(
            problem("REGISTRY", settings.registry, "is an address", "without https://, as in host:5000/team")
        )
    if settings.registry and not shutil.which("skopeo"):
        problems.append(problem("skopeo", "program", "is not installed; it pushes to registries", HOW["skopeo"]))
    if not settings.registry and not settings.inventory:
        fix = "REGISTRY=host/path, or INVENTORY=file (ansible/inventory.example.yml shows one)"
        problems.append(problem("REGISTRY or INVENTORY", "", "say where the image goes", fix))
    # A comma makes it a list of hosts, as for Ansible itself.
    elif settings.inventory and "," not in settings.inventory and not Path(settings.inventory).exists():
        problems.append(problem("INVENTORY", settings.inventory, "is not there", "the path of an Ansible inventory"))
    return problems


# ---- a registry ----


def push_to_registry(settings: argparse.Namespace) -> int:
    """The layers the registry lacks, then the manifest as it is: the digest stays the one of build/image.json."""
    image = json.loads(RECORD.read_text())
    name = f"{settings.registry.rstrip('/')}/{image['repository'].rsplit('/', 1)[-1]}"
    tls = "false" if settings.registry_insecure else "true"
    if settings.check:
        print(f"would push {image['size'] / 1e6:.1f} MB at most to {name}:{image['tag']}")
        return 0
    source = f"oci:{ROOT / image['layout']}:{image['tag']}"
    copy = [
        "skopeo",
        "copy",
        "--preserve-digests",
        f"--dest-tls-verify={tls}",
        source,
        f"docker://{name}:{image['tag']}",
    ]
    if status := subprocess.call(copy):
        return registry_failed(name, status)
    shown = subprocess.run(
        ["skopeo", "inspect", f"--tls-verify={tls}", "--raw", f"docker://{name}:{image['tag']}"],
        capture_output=True,
        check=False,
    )
    digest = "sha256:" + hashlib.sha256(shown.stdout).hexdigest()
    if digest != image["digest"]:
        print(f"error: {name} shows {digest} instead of {image['digest']}\n  fix: push again", file=sys.stderr)
        return 1
    reference = f"{name}@{digest}"
    write_json(RESULT, {"name": f"{name}:{image['tag']}", "digest": digest, "reference": reference})
    print(f"{name}:{image['tag']} is there; by digest: {reference}")
    return 0


def registry_failed(name: str, status: int) -> int:
    registry = name.split("/", 1)[0]
    print(
        f"error: skopeo could not push to {name} (exit {status}; its words are above)\n"
        f"  fix: credentials: skopeo login {registry}; plain HTTP: REGISTRY_INSECURE=1; then the same command",
        file=sys.stderr,
    )
    return 1


# ---- nodes ----


def run_playbook(settings: argparse.Namespace) -> int:
    inventory = settings.inventory if "," in settings.inventory else str(Path(settings.inventory).resolve())
    variables = {
        "tunefleet_image_record": str(RECORD),
        "tunefleet_image_result": str(RESULT) if settings.what == "push" else "",
        "tunefleet_image_force": settings.force,
    }
    command = [
        str(Path(sys.executable).with_name("ansible-playbook")),
        f"{settings.what}-image.yml",
        "--inventory",
        inventory,
    ]
    command += ["--extra-vars", json.dumps(variables)]
    command += ["--limit", settings.limit] if settings.limit else []
    command += ["--check"] if settings.check else []
    # In its directory Ansible reads our ansible.cfg, unless the user has one of their own in ANSIBLE_CONFIG.
    process = subprocess.Popen([*command, *shlex.split(settings.ansible_flags)], cwd=PLAYBOOKS)
    try:
        return 1 if process.wait() else 0
    except KeyboardInterrupt:
        process.wait()
        print("\nstopped; what arrived on the nodes is kept, the same command goes on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    run_program(main)
