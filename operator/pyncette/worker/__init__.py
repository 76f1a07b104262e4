"""Runs what is due: polls, claims, calls handlers, renews leases, and drains."""
