"""Searching for the best values of a spec's fields: every trial is an ordinary job.

plan        what a sweep says, as pydantic
checking    every wrong part of it at its pointer
overrides   a spec with the values of a trial
sampling    which values are tried next: grid, random, TPE
pruning     which trial is clearly worse than the others
engine      one look at every sweep: settle, prune, submit, end
"""
