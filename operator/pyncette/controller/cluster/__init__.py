"""
Speaks to the API server, and remembers its answers: requests, watches, cached objects, credentials, liveness, reviews.

It knows no record and no store. kopf and the Kubernetes client are imported here and in the service alone.
"""
