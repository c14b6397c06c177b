"""A server whose memory may be dumped: the control of test_core_dumps.py.

Started like the right one, `python dumpable_server.py serve …`; it then starts its workers from this file too.
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
