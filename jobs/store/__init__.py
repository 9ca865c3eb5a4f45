"""Every query, as functions on an open transaction. The caller's edge commits, nobody else.

jobs        create, get, list, queue position
attempts    claim, renew, finish, requeue: what a worker or the sweeper does to a job
events      number, keep and read events
estimates   when queued jobs may start
artifacts   the files that a job made
datasets    uploads
models      registered base models
turns       whose turn it is
quotas      what projects use, and what they may
projects    tenants and their quotas
keys        API keys
rates       how many requests a key has left
secrets     named secrets, sealed
audit       who did what
"""
