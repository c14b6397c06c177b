"""The control of the timing benchmark: a server that refuses another account's tag as soon as it finds it in the cache.

It is started like the real one, `python -m benchmarks.early_server serve ...`, and starts its workers from this file too.
"""

import sys
from typing import Any

from ixfast import cli
from ixfast.domain.scan import Scan
from ixfast.pipeline import engine
from ixfast.process import supervisor, worker


class EarlyEngine(engine.Engine):
    def __init__(self, catalogue: engine.Catalogue, *rest: Any) -> None:
        super().__init__(catalogue, *rest)
        self._cached = catalogue.find  # the compiled engine does not expose its catalogue

    def submit(self, scan: Scan) -> None:
        record = self._cached(scan.ref)
        if record is not None and not record.is_for(scan.api_key):
            self.unknown(scan)
        else:
            super().submit(scan)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        supervisor._WORKER = ("-m", "benchmarks.early_server")
        cli.main()
    else:
        worker.Engine = EarlyEngine  # type: ignore[attr-defined]
        worker.main()
