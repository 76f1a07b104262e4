"""
The stores of records: the port (`base`), the codec, the store in memory, and a folder for each backend.

It imports the core. It decides nothing: no policy, no schedule, no retry. Backends are independent of each other.
"""
