"""
`pyncette dev`: a folder's handlers run by its manifests, on an embedded database, watched and reloaded.

A supervisor and a child process meet only in the store. The child imports the app; the supervisor imports the mirror.
"""
