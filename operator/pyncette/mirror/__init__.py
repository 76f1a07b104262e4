"""
Everything between a resource and its record: spec to record, record to status, requests by annotation, counts.

The operator, `pyncette dev` and the commands use it alike. It imports resources and the ledger, and knows neither kopf nor
Kubernetes.
"""
