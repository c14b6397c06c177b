"""A server whose workers load aiohttp, and what serves with it, only once the file that APPS_GATE names exists.

The command line is that of `ixfast`, as in `python gated_server.py serve …`; its workers are started from this file, too.
"""

import os
import sys
import time
from importlib import import_module
from pathlib import Path
from types import ModuleType

from ixfast.process import supervisor


def load(name: str) -> ModuleType:
    while not Path(os.environ["APPS_GATE"]).exists():
        time.sleep(0.02)
    return import_module(name)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        from ixfast import cli

        supervisor._WORKER = (__file__,)
        cli.main()
    else:
        from ixfast.process import worker

        worker.import_module = load
        worker.main()
