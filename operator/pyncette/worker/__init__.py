"""
Runs what is due: polls, claims, calls handlers, renews leases, completes, and drains.

It imports the coordination of workers, the ledger and the store's port. It sees records and handlers, and never a manifest
or Kubernetes.
"""
