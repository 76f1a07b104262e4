"""`pyncette dev`: a folder's handlers run by its manifests, on an embedded database, watched and reloaded."""
