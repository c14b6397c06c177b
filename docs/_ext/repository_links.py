"""Links from a page to files of the repository outside docs/, which are not part of the site.

On GitHub a relative link works for every file. On the site a link to a file that a page includes leads to that page, and any
other to the file on GitHub. A link to a file that does not exist is reported.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

INCLUDED = {"CHANGELOG.md": "changelog.md", "deploy/README.md": "how-to/deploy.md"}
"""Files outside docs/ that a page of the site includes."""

_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)(#[^)\s]+)?(?=\))")
_FENCE = re.compile(r"^(`{3,}).*?^\1", re.MULTILINE | re.DOTALL)


def repository_url() -> str:
    """The address of the repository, from pyproject.toml."""
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    return str(urls["Homepage"])


def site_links(text: str, file: Path, report: Callable[[str], None]) -> str:
    """The Markdown `text` of `file` with its links as the site needs them. `report` gets a line for each that leads nowhere."""

    def target(found: re.Match[str]) -> str:
        path, anchor = found[1], found[2] or ""
        if path.startswith("/"):
            return found[0]
        wanted = Path(os.path.normpath(file.parent / path))
        if not wanted.exists():
            report(f"{file.name} links to {path}, which does not exist")
            return found[0]
        if not wanted.is_relative_to(ROOT):
            return found[0]
        name = str(wanted.relative_to(ROOT))
        if name in INCLUDED:
            return f"/{INCLUDED[name]}{anchor}"
        if wanted.is_relative_to(DOCS):
            return found[0] if file.is_relative_to(DOCS) else f"/{wanted.relative_to(DOCS)}{anchor}"
        return f"{repository_url()}/{'tree' if wanted.is_dir() else 'blob'}/main/{name}{anchor}"

    pieces, end = [], 0
    for fence in _FENCE.finditer(text):
        pieces += [_LINK.sub(target, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*pieces, _LINK.sub(target, text[end:])])
