"""
What workers tell each other through reserved realms: members, permits, partition assignment, partition counts, migration,
schemas of arguments.

It imports the ledger, the store and the core. It knows no handler and no manifest.
"""
