"""Cron for Python functions: declare async handlers, and have them called when they are due."""
