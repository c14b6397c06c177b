"""`ixfast bench`: runs the benchmarks of a checkout. The installed package does not contain them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import click

_NEEDED = "hdrh"  # the dependency group `bench`


def register(main: click.Group) -> None:
    @main.command(
        "bench",
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
        add_help_option=False,
    )
    @click.option("--stages", is_flag=True, help="Show the time that workers measured for each stage of a scan.")
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def bench(stages: bool, arguments: tuple[str, ...]) -> None:
        """Run the benchmarks of a checkout. `ixfast bench --help` lists them; without a name all run in sequence."""
        root = checkout()
        if root is None:
            raise click.ClickException(
                "The benchmarks are part of the repository, not of the installed package. Clone the repository and run this "
                "command or `make bench` in its folder."
            )
        if importlib.util.find_spec(_NEEDED) is None:
            raise click.ClickException(f"The benchmarks need more libraries. In {root}, run: pip install --group bench")
        path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
        command = [sys.executable, "-m", "benchmarks", *(["stages"] if stages else []), *arguments]
        done = subprocess.run(command, cwd=root, env={**os.environ, "PYTHONPATH": path})  # noqa: S603 - our own module
        sys.exit(done.returncode)


def checkout() -> Path | None:
    """The checkout with the folder `benchmarks`: the current folder, or that of an editable install; None if neither has it."""
    for folder in (Path.cwd(), Path(__file__).resolve().parents[3]):
        if (folder / "benchmarks" / "__main__.py").is_file() and (folder / "src" / "ixfast").is_dir():
            return folder
    return None
