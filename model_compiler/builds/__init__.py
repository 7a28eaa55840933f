"""Builds: one module a backend."""
