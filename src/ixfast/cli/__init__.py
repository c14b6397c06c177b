"""The command line `ixfast`: one module for each group of commands, and `main`, the entry point.

Commands parse arguments, print results and turn errors into exit statuses; what they do is implemented in the other packages, all
of which they may import. Nothing imports this package.
"""

from ixfast.cli.main import main

__all__ = ["main"]
