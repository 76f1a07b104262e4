"""`python -m pyncette.cli` is `pyncette`."""

from pyncette.cli import main

if __name__ == "__main__":
    main()
