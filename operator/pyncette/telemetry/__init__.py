"""
Reports what happens: logs, metrics and health.

Entry points alone import it, and nothing that works depends on it.
"""
