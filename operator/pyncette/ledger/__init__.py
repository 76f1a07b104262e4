"""
Applies rules to stored records in batches, and settles races. It is the only writer of tasks' records.

It imports the store's port and the core, and knows no driver, no handler and no manifest.
"""
