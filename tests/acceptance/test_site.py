"""The documentation site: it builds without a warning, shows what the code has, and needs nothing from other sites."""

from __future__ import annotations

import html
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import pytest
import yaml

import ixfast
from docs._ext import command_line, python_api
from docs._ext.repository_links import repository_url, site_links
from ixfast.error_codes import STATUS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BUILD_DEADLINE_S = 240.0
BUILD = (
    sys.executable,
    "-m",
    "sphinx",
    "--fresh-env",
    "--quiet",
    "--nitpicky",
    "--fail-on-warning",
    "--keep-going",
    "--builder",
    "html",
)


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Build as `make docs` does, with its configuration, in another folder."""
    return subprocess.run(
        (*BUILD, "--conf-dir", str(DOCS), "--doctree-dir", str(target / "doctrees"), str(source), str(target / "html")),
        cwd=ROOT, capture_output=True, text=True, timeout=BUILD_DEADLINE_S,
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    target = tmp_path_factory.mktemp("site")
    done = build(DOCS, target)
    assert done.returncode == 0, done.stdout + done.stderr
    return target / "html"


def text(site: Path, page: str) -> str:
    return (site / f"{page}.html").read_text()


def ids(page: str) -> set[str]:
    return set(re.findall(r'\bid="([^"]+)"', page))


def test_the_makefile_builds_as_strictly() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert f"$(BIN)/sphinx-build {' '.join(BUILD[3:])} " in makefile


def write_pages(folder: Path, text: str) -> Path:
    """A site of two pages, the first of which has this text."""
    folder.mkdir()
    (folder / "index.md").write_text(f"# First page\n\n{text}\n\n- [Other page](other.md)\n\n<!-- generated: contents -->\n")
    (folder / "other.md").write_text("# Other page\n")
    return folder


FAULTS = {
    "page": "[no such page](nowhere.md)",
    "heading": "[no such heading](#nowhere)",
    "heading elsewhere": "[no such heading](other.md#nowhere)",
    "file": "[no such file](../nowhere.txt)",
    "picture": "![no such picture](nowhere.svg)",
    "language": "```nonsense\nno lexer knows this language\n```",
}


def test_pages_without_a_fault_are_built(tmp_path: Path) -> None:
    done = build(write_pages(tmp_path / "pages", "[no fault](other.md#other-page)"), tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_fails_the_build(tmp_path: Path, fault: str) -> None:
    done = build(write_pages(tmp_path / "pages", FAULTS[fault]), tmp_path)
    assert done.returncode == 1
    assert "index.md" in done.stderr
    assert "WARNING" in done.stderr


def test_every_page_has_a_title_and_a_description(site: Path) -> None:
    for source in DOCS.rglob("*.md"):
        page = text(site, str(source.relative_to(DOCS).with_suffix("")))
        assert re.search(r"<title>[^<]+</title>", page), source
        assert re.search(r'<meta name="description" content="[^"]{20}', page), source
        assert re.search(r'<link rel="shortcut icon" href="[^"]*_static/logo\.svg"', page), source


def test_every_page_is_reachable_from_the_first(site: Path) -> None:
    seen: set[str] = set()
    waiting = ["index.html"]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            links = re.findall(r'<a class="[^"]*internal[^"]*" href="([^"#]+\.html)', (site / name).read_text())
            waiting += [os.path.normpath(Path(name).parent / link) for link in links]
    assert {str(page.relative_to(DOCS).with_suffix(".html")) for page in DOCS.rglob("*.md")} <= seen


def resources(page: str) -> Iterator[str]:
    """The addresses of what a browser loads with a page."""
    yield from re.findall(r'<(?:script|img|iframe|source|object)\b[^>]*\b(?:src|data)="([^"]+)"', page)
    yield from re.findall(r'<link\b[^>]*\brel="(?:stylesheet|preload|icon|shortcut icon)"[^>]*\bhref="([^"]+)"', page)


def test_pages_load_nothing_from_other_sites(site: Path) -> None:
    for file in site.rglob("*.html"):
        found = list(resources(file.read_text()))
        assert any("furo.css" in each for each in found), file
        for each in found:
            address = urlsplit(html.unescape(each))
            assert not address.netloc and address.scheme in ("", "data"), (file, each)
            if address.path and address.scheme == "":
                assert (file.parent / unquote(address.path)).exists(), (file, each)
    for file in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(?:https?:)?//", file.read_text()), file


def test_every_command_is_on_its_page(site: Path) -> None:
    page = text(site, "reference/command-line")
    for path, command in command_line.walk():
        anchor = path.replace(" ", "-")
        assert anchor in ids(page), path
        section = page.partition(f'<section id="{anchor}">')[2].partition("</section>")[0]
        words = html.unescape(re.sub(r"<[^>]+>", "", section))
        assert f"{path} " in words, path
        for option in command.params:
            if isinstance(option, click.Option) and not option.hidden and not command_line.SETTING_FLAGS & set(option.opts):
                assert all(name in words for name in option.opts), (path, option.opts)


def test_every_error_code_is_on_its_page(site: Path) -> None:
    assert set(STATUS) <= ids(text(site, "reference/error-codes"))


def test_every_operation_and_schema_is_on_its_page(site: Path) -> None:
    description = yaml.safe_load((DOCS / "openapi.yaml").read_text())
    page = text(site, "reference/http-api")
    words = html.unescape(re.sub(r"<[^>]+>", "", page))
    for path, item in description["paths"].items():
        for method in {"get", "head", "options", "post", "put", "patch", "delete"} & set(item):
            assert f"{method.upper()} {path}" in words, (method, path)
    assert {name.lower() for name in description["components"]["schemas"]} <= ids(page)
    assert re.search(r'href="[^"]*_downloads/\w+/openapi\.yaml"', page)


def test_every_public_name_is_on_its_page(site: Path) -> None:
    page = text(site, "reference/python-api")
    expected = {f"ixfast.testing.{name}" for name in python_api.public_names(ixfast.testing)}
    expected |= {f"ixfast.{name}" for name in python_api.public_names(ixfast)}
    assert expected
    assert expected <= ids(page)


def test_docstrings_link_to_documents_and_classes() -> None:
    assert python_api.with_links("`VirtualTag`: see docs/reference/chips.md.") == (
        ":py:obj:`VirtualTag <ixfast.testing.VirtualTag>`: see :doc:`/reference/chips`."
    )
    assert python_api.with_links("``VirtualTag`` and `uid`") == "``VirtualTag`` and `uid`"


def test_links_to_the_repository() -> None:
    operate = DOCS / "how-to" / "operate.md"
    deploy = ROOT / "deploy" / "README.md"
    url = repository_url()
    broken: list[str] = []
    for page, link, expected in [
        (operate, "[a](../../deploy/postgresql.conf)", f"[a]({url}/blob/main/deploy/postgresql.conf)"),
        (operate, "[a](../../benchmarks)", f"[a]({url}/tree/main/benchmarks)"),
        (operate, "[a](../../deploy/README.md#docker)", "[a](/how-to/deploy.md#docker)"),
        (operate, "[a](../reference/settings.md)", "[a](../reference/settings.md)"),
        (deploy, "[a](../docs/how-to/operate.md#start)", "[a](/how-to/operate.md#start)"),
        (operate, "[a](https://example.com/x)", "[a](https://example.com/x)"),
        (operate, "```text\n[a](../../deploy)\n```", "```text\n[a](../../deploy)\n```"),
    ]:
        assert site_links(link, page, broken.append) == expected
    assert broken == []
    links = site_links("[a](../../deploy/nothing.conf) [b](../../benchmarks)", operate, broken.append)
    assert links == f"[a](../../deploy/nothing.conf) [b]({url}/tree/main/benchmarks)"
    assert broken == ["operate.md links to ../../deploy/nothing.conf, which does not exist"]
