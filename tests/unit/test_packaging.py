"""What a release consists of agrees: the version in every place, the lock files, the SBOM, the image and the source package.

`make wheels` builds and tries the packages themselves, `make lock` compares the lock files with the wheels.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ixfast
from release import lock, sbom, wheels

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
VERSION = PROJECT["version"]
LOCKS = ("requirements.lock", "requirements-build.lock")
DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def runtime() -> dict[str, sbom.Locked]:
    return {entry.name: entry for entry in sbom.locked((ROOT / LOCKS[0]).read_text())}


# The version -------------------------------------------------------------------------------------


def test_the_package_has_the_version_of_the_project() -> None:
    assert importlib.metadata.version("ixfast") == VERSION, "installed from an older pyproject.toml: pip install --editable ."
    assert ixfast.__version__ == VERSION


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("docs/openapi.yaml", r"^  version: (\S+)$"),
        ("deploy/Dockerfile", r"--tag ixfast:(\S+)"),
        ("deploy/Dockerfile", r'org\.opencontainers\.image\.version="([^"]+)"'),
        ("deploy/README.md", r"--tag ixfast:(\S+)"),
        ("deploy/compose.yaml", r"\$\{SERVER_IMAGE:-ixfast:([^}]+)\}"),
        ("deploy/make-secrets.sh", r"\$\{SERVER_IMAGE:-ixfast:([^}]+)\}"),
    ],
)
def test_every_place_that_shows_the_version_shows_this_one(file: str, pattern: str) -> None:
    assert set(re.findall(pattern, (ROOT / file).read_text(), re.MULTILINE)) == {VERSION}


def test_transcripts_and_images_in_documents_have_this_version() -> None:
    """`ixfast 0.1.0` and `ixfast:0.1.0`, wherever a page shows it."""
    files = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *filter(Path.is_file, (ROOT / "deploy").iterdir())]
    found = {(file.name, shown) for file in files for shown in re.findall(r"\bixfast[ :]v?(\d+\.\d+\.\d+)\b", file.read_text())}
    assert {shown for _, shown in found} == {VERSION}, found


def test_the_changelog_describes_this_version_first() -> None:
    releases = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert next(release for release in releases if release != "Unreleased") == VERSION
    assert "Unreleased" not in releases[1:]


# Lock files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", LOCKS)
def test_every_locked_package_has_hashes_and_no_origin(file: str) -> None:
    text = (ROOT / file).read_text()
    entries = list(sbom.locked(text))
    assert entries and all(entry.hashes for entry in entries)
    options = [line for line in text.splitlines() if not line.startswith(("    ", *(f"{entry.name}==" for entry in entries)))]
    assert options == [], "an option of pip, or a requirement without a version"
    assert "://" not in text and "--index" not in text and "--find-links" not in text


def test_a_requirement_without_hashes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"not a requirement .*: click==8\.1"):
        list(sbom.locked("click==8.1\n    # via ixfast (pyproject.toml)\n"))


def test_the_lock_file_satisfies_the_project(runtime: dict[str, sbom.Locked]) -> None:
    """Every dependency of the image is locked at a version that pyproject.toml allows, and some package requires every other."""
    wanted = [Requirement(text) for text in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["visitors"]]]
    for requirement in wanted:
        entry = runtime[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(entry.version), requirement
        assert "ixfast" in entry.required_by
    direct = {canonicalize_name(requirement.name) for requirement in wanted}
    assert {name for name, entry in runtime.items() if "ixfast" in entry.required_by} == direct
    for entry in runtime.values():
        assert entry.required_by and set(entry.required_by) <= runtime.keys() | {"ixfast"}, entry


def test_the_lock_file_satisfies_the_build() -> None:
    entries = {entry.name: entry for entry in sbom.locked((ROOT / LOCKS[1]).read_text())}
    wanted = {canonicalize_name(each.name): each for each in map(Requirement, PYPROJECT["build-system"]["requires"])}
    assert entries.keys() == wanted.keys()
    assert all(wanted[name].specifier.contains(entry.version) for name, entry in entries.items())


# SBOM --------------------------------------------------------------------------------------------


def test_the_sbom_is_valid_and_complete(runtime: dict[str, sbom.Locked]) -> None:
    text = sbom.render()
    assert sbom.errors(text) == []
    document = json.loads(text)
    components = {component["bom-ref"]: component for component in document["components"]}
    assert {component["name"]: component["version"] for component in components.values()} == {
        name: entry.version for name, entry in runtime.items()
    }
    for component in components.values():
        hashes = {found["content"] for found in component["externalReferences"][0]["hashes"]}
        assert hashes == set(runtime[component["name"]].hashes)
    depends = {entry["ref"]: set(entry.get("dependsOn", ())) for entry in document["dependencies"]}
    reached, waiting = set(), ["ixfast"]
    while waiting:
        found = depends[waiting.pop()] - reached
        reached |= found
        waiting += found
    assert reached == components.keys(), "who requires what leads to every package"


def test_the_sbom_of_the_same_lock_file_is_the_same() -> None:
    assert sbom.render() == sbom.render()
    assert "timestamp" not in sbom.render()


def test_an_invalid_sbom_is_found() -> None:
    document = json.loads(sbom.render())
    document["components"][0]["type"] = "nonsense"
    assert sbom.errors(json.dumps(document))


# Image, source package, wheels -------------------------------------------------------------------


def test_the_image_installs_only_what_is_locked() -> None:
    installs = re.findall(r"pip install ([^\\\n]+)", DOCKERFILE)
    assert len(installs) == 3
    for options in installs:
        assert ("--require-hashes" in options and options.split()[-1] in LOCKS) or "--no-index" in options, options
    assert re.findall(r"pip wheel ([^\\\n]+)", DOCKERFILE)[0].count("--no-build-isolation") == 1


def test_the_source_package_takes_every_kind_of_source() -> None:
    included = re.search(r"^recursive-include src/ixfast (.+)$", (ROOT / "MANIFEST.in").read_text(), re.MULTILINE)
    assert included is not None
    ending = {f"*{path.suffix}" for path in (ROOT / "src" / "ixfast").rglob("*") if path.is_file()}
    assert ending - {"*.py", "*.pyc", "*.so", "*.c"} <= {*included[1].split(), "*.typed"}


def test_the_build_is_for_every_cpu() -> None:
    """The core chooses instructions at run time; one that depends on the build machine's CPU would fail elsewhere."""
    assert not re.search(r"-m(?:arch|cpu|tune|avx|aes|sse)", (ROOT / "setup.py").read_text())


def test_wheels_are_built_for_the_supported_versions() -> None:
    named = {
        each.rpartition(" ")[2] for each in PROJECT["classifiers"] if each.startswith("Programming Language :: Python :: 3.")
    }
    built = {f"3.{minor}" for minor in re.findall(r"cp3(\d+)-", " ".join(PYPROJECT["tool"]["cibuildwheel"]["build"]))}
    assert named == built == set(wheels.PYTHONS) == set(lock.PYTHONS)
    assert PYPROJECT["tool"]["cibuildwheel"]["linux"]["archs"] == ["x86_64", "aarch64"]


# .github ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem)
def test_issue_forms_ask_for_no_secret(form: Path) -> None:
    content = yaml.safe_load(form.read_text())
    if form.stem == "config":
        assert any("security" in link["url"] for link in content["contact_links"])
    else:
        assert {"name", "description", "body"} <= content.keys()
        ids = [part["id"] for part in content["body"] if "id" in part]
        assert len(ids) == len(set(ids)) > 0
        assert re.search(r"[Nn]ever (?:paste|attach)[^.]*\bkeys?\b", form.read_text())


# The description ---------------------------------------------------------------------------------


def test_the_links_in_the_description_work_outside_of_the_repository(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"IXFAST_NO_EXTENSIONS": "1"}, check=True, capture_output=True)
    metadata = (tmp_path / "ixfast.egg-info" / "PKG-INFO").read_text()
    assert "\nDescription-Content-Type: text/markdown\n" in metadata
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", metadata)
    assert len(links) == len(re.findall(r"\]\(", (ROOT / "README.md").read_text())) > 20
    for image, link in links:
        if link.startswith(PROJECT["urls"]["Source"]):
            kind, branch, path = link.removeprefix(PROJECT["urls"]["Source"] + "/").split("/", 2)
            assert (kind, branch) == ("raw" if image else "blob", "main")
            assert (ROOT / path.partition("#")[0]).exists()
        else:
            assert link.startswith("https://")
