"""docs/openapi.yaml: a server's description of itself, as a file. `make openapi` writes it, and a test compares it."""

from pathlib import Path

import msgspec
import yaml

from ixfast.http.openapi.document import description

DOCUMENT = Path(__file__).parents[1] / "docs" / "openapi.yaml"
_HEAD = "# Made from the routes by `make openapi`; a server has the same at /openapi.json on its private listener.\n"


class _Plain(yaml.SafeDumper):
    """Repeats values that occur in several places instead of using anchors."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def text() -> str:
    plain = msgspec.json.decode(msgspec.json.encode(description()))
    return _HEAD + yaml.dump(plain, Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)


if __name__ == "__main__":
    DOCUMENT.write_text(text())
