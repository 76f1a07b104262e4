"""
Values and decisions: what happens to an occurrence, as pure functions from record to record.

It imports errors and the units of the clock. No await, no clock, no randomness, no driver.
"""
