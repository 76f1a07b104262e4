"""
The parts that SQL backends share: the store, the connection pool, numbered parameters, and rows.

It imports the store's port and codec, and knows no driver and no backend. A backend adds its dialect, its connections, and
the statements that depend on the server: claim, renew, count and swap.
"""
