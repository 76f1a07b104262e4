"""
Decides what a status and its Events say, and writes statuses within their budget.

Decisions are pure functions of what was observed. It imports the mirror and the
resources. Nothing here reads a store or reconciles.
"""
