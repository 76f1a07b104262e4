"""Tests by layer; tests.servers brings up the real servers that they run on."""
