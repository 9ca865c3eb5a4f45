"""The life of a job: states, rows, the store (every query), queue, events and artifacts."""
