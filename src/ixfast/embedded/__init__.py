"""A private PostgreSQL server for `ixfast serve` without a configured database, and for the tests.

`binaries.py` finds the server's programs and the user that runs them, `ownership.py` gives a data directory one owner at a time
and stops what a killed owner left running, `server.py` creates the cluster, starts it and stops it.

It serves one host; several hosts share a database of their own. It knows nothing of ixfast's schema and imports only the root
modules `errors` and `limits`.
"""

from ixfast.embedded.binaries import EmbeddedPostgresError, wheel_folder
from ixfast.embedded.ownership import DatabaseInUseError
from ixfast.embedded.server import EmbeddedPostgres, default_data_dir, free_port

__all__ = ["DatabaseInUseError", "EmbeddedPostgres", "EmbeddedPostgresError", "default_data_dir", "free_port", "wheel_folder"]
