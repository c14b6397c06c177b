"""The entry point of the command `ixfast` and of `python -m ixfast`: Ctrl-C ends it quietly while it loads the command line."""

import sys

from ixfast.process.interrupts import INTERRUPTED, QuietInterrupts


def main() -> None:
    """Load the command line and run it."""
    with QuietInterrupts():
        from ixfast.cli import main as run
    try:
        run()
    except KeyboardInterrupt:  # before or after the command, which reports its own
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
