"""
The declarations of a task module, and their registration with a worker: application, tasks, options, instances, contexts.

It imports the worker, the coordination of workers and the ledger. It knows the worker by its `Registration` protocol, and
knows no driver, no manifest and no Kubernetes.
"""
