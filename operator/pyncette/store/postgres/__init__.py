"""
The PostgreSQL backend.

It imports the store's port and codec and the room `sql`, and knows no other backend. The driver is imported by
`connection` alone.
"""
