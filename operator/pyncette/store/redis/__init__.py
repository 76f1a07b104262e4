"""
The Redis and Valkey backend: one server, Sentinel or Cluster. One script in `lua/` for each verb of the port.

It imports the store's port and codec, and knows no other backend. The driver is imported by `connection` alone.
"""
