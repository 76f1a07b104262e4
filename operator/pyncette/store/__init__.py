"""Where records are kept: one port, and a module for each backend."""
