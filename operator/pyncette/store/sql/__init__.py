"""
What the SQL backends share: how records become rows, and statements with numbered parameters.

It imports the store's port and codec, and knows no driver and no backend.
"""
