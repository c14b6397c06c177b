"""`ixfast bench`: runs the benchmarks of a checkout. They are not part of the installed package."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import click

_NEEDED = ("hdrh", "matplotlib")  # of the dependency group `bench`


def register(main: click.Group) -> None:
    @main.command(
        "bench",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
        add_help_option=False,
    )
    @click.option("--stages", is_flag=True, help="Measure the cost of each stage of a scan.")
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def bench(stages: bool, arguments: tuple[str, ...]) -> None:
        """Run the benchmarks of a checkout. `ixfast bench --help` lists them; without a name the standard set runs."""
        root = checkout()
        if root is None:
            raise click.ClickException(
                "The benchmarks are in the repository, not in the installed package. Clone it and run this command or"
                " `make bench` in its folder."
            )
        asks_help = not stages and arguments[:1] in (("--help",), ("-h",))
        if not asks_help and any(importlib.util.find_spec(name) is None for name in _NEEDED):
            raise click.ClickException(
                f"The benchmarks need additional libraries: run `make bench` in {root}, or `pip install --group bench` there."
            )
        path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
        command = [sys.executable, "-m", "benchmarks", *(["stages"] if stages else []), *arguments]
        done = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": path})  # noqa: S603 - our own module
        sys.exit(done.returncode)


def checkout() -> Path | None:
    """The folder that contains `benchmarks`: the current one, or that of an editable install; None if neither does."""
    for folder in (Path.cwd(), Path(__file__).resolve().parents[3]):
        if (folder / "benchmarks" / "__main__.py").is_file() and (folder / "src" / "ixfast").is_dir():
            return folder
    return None
