"""`python -m pyncette.cli` is `pyncette`."""

from pyncette.cli.commands import main

if __name__ == "__main__":
    main()
