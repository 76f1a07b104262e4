"""Keeps the store equal to the wishes of the cluster, and the status in the cluster equal to the store."""
