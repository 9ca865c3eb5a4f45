"""Trying finished models: one is loaded at a time, and asked over one connection."""
