"""The entry point of the command `ixfast` and of `python -m ixfast`: Ctrl-C ends it quietly while it loads the command line."""

import os
import signal
import sys

_INTERRUPTED = 130  # `ExitCode.INTERRUPTED`, which is not loaded yet


def main() -> None:
    """Load the command line and run it."""
    raises = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # false in a background job, which ignores it
    if raises:
        # An exception would be raised somewhere in an import, which may catch it or print it.
        signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED))
    from ixfast.cli import main as run

    try:
        if raises:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
