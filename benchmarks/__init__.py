"""How fast it is, measured beside the released upstream package: `make bench`."""
