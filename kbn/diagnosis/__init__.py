"""Findings from the records of training runs."""
