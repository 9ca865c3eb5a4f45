"""Every query, as functions on an open transaction. The caller's edge commits, nobody else.

jobs        create, get, cancel, pause, resume
listing     pages of jobs, by whatever they are filtered
editing     what the owner may change, and deletion
attempts    claim, renew, finish, requeue: what a worker or the sweeper does to a job
events      number, keep and read events
estimates   when queued jobs may start
artifacts   the files that a job made
pushes      models on their way to the Hub
checkpoints what of a job is stored to go on from, or to start another from
datasets    uploads
models      registered base models
files       what OpenAI's clients see as files: data sets, figures of jobs, other uploads
uploads     files that come in parts
results     the figures of a job as a file
fine_tunes  what was said of a job in OpenAI's words
permissions who else may use a job's model
turns       whose turn it is
quotas      what projects use, and what they may
projects    tenants and their quotas
keys        API keys
rates       how many requests a key has left
secrets     named secrets, sealed
audit       who did what
replies     first replies by Idempotency-Key
sweeps      searches for the best values, and their trials
webhooks    where projects want to be told of their jobs
notices     what they are told
deliveries  events on their way to webhooks, each try kept
"""
