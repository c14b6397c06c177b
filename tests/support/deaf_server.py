"""A server that never reloads its key file: the control of the rotation under load in test_key_custody.py.

The command line is that of `ixfast`, as in `python deaf_server.py serve …`; its workers are started from this file, too.
"""

import sys
from collections.abc import Collection

from ixfast import cli
from ixfast.keys import KeyEncryptionKeys, key_reloader
from ixfast.process import supervisor, worker


async def look_for(_keys: KeyEncryptionKeys, _ids: Collection[str]) -> None: ...


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        supervisor._WORKER = (__file__,)
        cli.main()
    else:
        KeyEncryptionKeys.look_for = look_for
        key_reloader._POLL_S = 3600.0
        worker.main()
