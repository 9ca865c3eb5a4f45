"""The client, as it is written: on asyncio. `luthier.client.sync` is made of these modules.

client      `AsyncClient`, from which everything hangs
jobs        create, watch, wait for, download: `client.jobs`
job         a job that can be waited for and followed
datasets    uploads: `client.datasets`
models      registered base models: `client.models`
tasks       what can be trained: `client.tasks`
sweeps      searches made of jobs: `client.sweeps`
webhooks    where events are sent: `client.webhooks`
access      keys, projects, secrets and the audit log
workers     who trains: `client.workers`
transport   requests, retries with back-off
following   event streams that survive cut connections
downloading resumed and verified downloads
sending     uploads, verified, that make nothing twice
ending      waiting for the end of a job or a sweep
waiting     sleeping, and work that takes long: written for each side
"""
