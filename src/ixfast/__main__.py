"""`python -m ixfast` runs the command `ixfast`."""

from ixfast.cli import main

if __name__ == "__main__":
    main()
