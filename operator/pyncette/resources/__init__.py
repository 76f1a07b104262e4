"""
The custom resources as pydantic models, and the reading of manifests.

It imports the core. It is pure: no store, no ledger, no Kubernetes client.
"""
