"""A private PostgreSQL for `ixfast serve` with nothing configured, and for the tests.

`binaries.py` finds the server's programs and the user who may run them, `ownership.py` keeps two owners apart and ends
what a killed owner left, `server.py` makes the cluster, starts it and stops it.
"""

from ixfast.embedded.binaries import EmbeddedPostgresError, wheel_folder
from ixfast.embedded.server import EmbeddedPostgres, default_data_dir

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError", "default_data_dir", "wheel_folder"]
