"""
Logs, metrics and health checks.

Only entry points and public modules import it.
"""
