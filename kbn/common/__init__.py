"""Helpers for all other packages: argument checks, types, lazy imports, warnings, versions."""
