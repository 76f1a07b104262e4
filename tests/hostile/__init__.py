"""Tenants and databases that attack each other through the operator."""
