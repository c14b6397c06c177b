"""A server that allows core dumps: the control of test_core_dumps.py.

The command line is that of `ixfast`, as in `python dumpable_server.py serve …`; its workers are started from this file, too.
"""

import sys

from ixfast import cli
from ixfast.process import hardening, supervisor, worker

if __name__ == "__main__":
    hardening.forbid_core_dumps = lambda: None
    if sys.argv[1] == "serve":
        supervisor._WORKER = (__file__,)
        cli.main()
    else:
        worker.main()
