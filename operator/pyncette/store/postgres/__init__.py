"""
The PostgreSQL backend.

It imports the store's port and codec and what the SQL backends share, and knows no other backend. The driver is imported
by `connection` alone.
"""
