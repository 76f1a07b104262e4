"""
What a task module declares, and how it becomes what a worker runs: application, tasks, options, instances, contexts.

It imports the worker, the coordination of workers and the ledger. It knows the worker by its `Registration` protocol, and
knows no driver, no manifest and no Kubernetes.
"""
