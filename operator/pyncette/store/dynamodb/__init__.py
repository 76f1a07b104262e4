"""
The DynamoDB backend: one table with one index.

It imports the store's port and codec, and knows no other backend. The driver is imported by `connection` alone.
"""
