"""Write the image's bill of materials, CycloneDX 1.5: what dpkg and Python's metadata know, inside the image.

    python sbom.py [/usr/share/tunefleet/sbom.cdx.json]

No time and no serial number: the same packages give the same file, and the same layer.
"""

import json
import re
import subprocess
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path
from urllib.parse import quote

TARGET = "/usr/share/tunefleet/sbom.cdx.json"


def main() -> None:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else TARGET)
    system = os_release()
    components = debian_packages(system) + sorted(map(python_package, distributions()), key=lambda one: one["purl"])
    name = f"{system['ID']} {system['VERSION_ID']}"
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "container", "name": "tunefleet", "description": f"on {name}"}},
        "components": components,
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def os_release() -> dict[str, str]:
    """ID and VERSION_ID of the operating system, among others."""
    lines = Path("/etc/os-release").read_text().splitlines()
    return {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}


def debian_packages(system: dict[str, str]) -> list[dict]:
    """Every installed package, in dpkg's order."""
    wanted = "--showformat=${db:Status-Status} ${Package} ${Version} ${Architecture}\n"
    listing = subprocess.run(["dpkg-query", "--show", wanted], capture_output=True, text=True, check=True).stdout
    found = []
    for status, name, version, architecture in map(str.split, listing.splitlines()):
        if status == "installed":
            where = f"arch={architecture}&distro={system['ID']}-{system['VERSION_ID']}"
            purl = f"pkg:deb/{system['ID']}/{quote(name)}@{quote(version)}?{where}"
            licences = copyright_licences(Path("/usr/share/doc") / name / "copyright")
            found.append(component(name, version, purl, licences))
    return found


def copyright_licences(path: Path) -> list[str]:
    """The short names of licences in a machine-readable copyright file; none in one of prose."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return []
    return sorted(set(re.findall(r"^License: *(\S.*?) *$", text, re.MULTILINE)))


def python_package(distribution: Distribution) -> dict:
    """One Python distribution."""
    name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower()
    purl = f"pkg:pypi/{name}@{quote(distribution.version)}"
    return component(name, distribution.version, purl, licence(distribution.metadata))


def licence(metadata) -> list[str]:
    """A licence expression, else what the classifiers say, else the first line of the free text."""
    if metadata["License-Expression"]:
        return [metadata["License-Expression"]]
    classifiers = [value for value in metadata.get_all("Classifier", []) if value.startswith("License :: ")]
    named = [value.rpartition(" :: ")[2] for value in classifiers if value != "License :: OSI Approved"]
    return named or [line.strip()[:80] for line in (metadata["License"] or "").strip().splitlines()[:1]]


def component(name: str, version: str, purl: str, licences: list[str]) -> dict:
    """One entry; licences are free names, since few packages say an identifier of SPDX's list."""
    entry = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    return entry | ({"licenses": [{"license": {"name": licence}} for licence in licences]} if licences else {})


if __name__ == "__main__":
    main()
