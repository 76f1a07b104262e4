"""
The SQLite backend: one file, one connection that writes, on a thread of its own.

It imports the store's port and codec, and knows no other backend. The driver is imported by `database` alone.
"""
