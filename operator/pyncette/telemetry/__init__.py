"""Tells what goes on: logs, metrics and health. It listens; nothing that works depends on it."""
