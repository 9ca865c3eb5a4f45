"""Fault drills: real processes, a real PostgreSQL and a real Valkey, and faults done to them.

`make drills` runs them in full; `tests/drills/test_quick.py` one of each.
"""
