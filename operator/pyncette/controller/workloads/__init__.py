"""
Pure functions from a pool to the objects that it consists of: pod template, strategic merge, pod security, drift.

They import the resources. Nothing here speaks to the API server.
"""
