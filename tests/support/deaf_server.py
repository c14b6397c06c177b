"""A server that reads its key file once: the control of the rotation under load in test_key_custody.py.

Started like the right one, `python deaf_server.py serve …`; it then starts its workers from this file too.
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
