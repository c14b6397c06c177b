"""Write the software bill of materials of a release: `make sbom` writes `dist/ixfast-VERSION.cdx.json`, CycloneDX 1.6.

It lists the packages that `requirements.lock` pins, with the hash of each file that may be installed, and which package requires
which. The base image and PostgreSQL are not in it. The same lock file and version give the same bytes: it contains no time and no
random number.
"""

from __future__ import annotations

import re
import sys
import tomllib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

ROOT = Path(__file__).parents[1]
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://github.com/ixfast/ixfast/sbom")


@dataclass(frozen=True, slots=True)
class Locked:
    """One requirement of the lock file. `required_by` has the names of packages; the project's own name stands for itself."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]
    required_by: tuple[str, ...]


def locked(text: str) -> Iterator[Locked]:
    """The requirements of a lock file as `uv pip compile --generate-hashes` writes it."""
    for entry in re.split(r"\n(?=\S)", text.strip()):
        head = re.match(r"(?P<name>[\w.-]+)==(?P<version>[^\s;]+)(?: ; (?P<marker>[^\\\n]+?))? \\\n", entry)
        if head is None:
            raise ValueError(f"not a requirement with a version and hashes: {entry.splitlines()[0]}")
        hashes = tuple(re.findall(r"--hash=sha256:([0-9a-f]{64})", entry))
        required_by = tuple(re.findall(r"^    #(?: via |   )([\w.-]+)(?: \(pyproject\.toml\))?$", entry, re.MULTILINE))
        yield Locked(head["name"], head["version"], head["marker"] or "", hashes, required_by)


def bill(project: dict[str, str], lock: str) -> Bom:
    """The bill of `project` (pyproject.toml's table) with the packages of a lock file's text."""
    bom = Bom(serial_number=uuid.uuid5(NAMESPACE, f"{project['version']}\n{lock}"))
    bom.metadata.timestamp = None
    root = Component(
        name=project["name"],
        version=project["version"],
        type=ComponentType.APPLICATION,
        description=project["description"],
        licenses=[DisjunctiveLicense(id=project["license"])],
        purl=PackageURL("pypi", None, project["name"], project["version"]),
        bom_ref=project["name"],
    )
    bom.metadata.component = root
    components = {}
    entries = list(locked(lock))
    for entry in entries:
        purl = PackageURL("pypi", None, entry.name, entry.version)
        hashes = [HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in entry.hashes]
        files = ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri(str(purl)), hashes=hashes)
        components[entry.name] = Component(
            name=entry.name,
            version=entry.version,
            type=ComponentType.LIBRARY,
            purl=purl,
            bom_ref=str(purl),
            external_references=[files],
            properties=[Property(name="ixfast:marker", value=entry.marker)] if entry.marker else [],
        )
        bom.components.add(components[entry.name])
    for name, component in {project["name"]: root, **components}.items():
        bom.register_dependency(component, [components[entry.name] for entry in entries if name in entry.required_by])
    return bom


def render() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return JsonV1Dot6(bill(project, (ROOT / "requirements.lock").read_text())).output_as_string(indent=2) + "\n"


def errors(text: str) -> list[str]:
    """What the schema of CycloneDX 1.6 objects to."""
    found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    return [] if found is None else [str(found.data)]


def main() -> None:
    text = render()
    if found := errors(text):
        sys.exit("\n".join(found))
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    output = ROOT / "dist" / f"ixfast-{version}.cdx.json"
    output.parent.mkdir(exist_ok=True)
    output.write_text(text)
    print(
        f"{output.relative_to(ROOT)}: {len(list(locked((ROOT / 'requirements.lock').read_text())))} packages, valid CycloneDX 1.6"
    )


if __name__ == "__main__":
    main()
