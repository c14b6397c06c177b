"""`python -m ixfast`: the same as the command `ixfast`."""

from ixfast.cli import main

if __name__ == "__main__":
    main()
