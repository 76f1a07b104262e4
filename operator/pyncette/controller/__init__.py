"""
The operator: makes the store equal to the resources in the cluster, and their status equal to the store.

It imports the mirror, the coordination of workers and the ledger, and never the worker. kopf and the Kubernetes client are
imported here alone. It knows handlers by their names only.
"""
