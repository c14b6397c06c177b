"""The command `ixfast`. One module a group of commands; `main` is the entry point."""

from ixfast.cli.main import main

__all__ = ["main"]
