"""Training itself: the spec, the rows, the events and the run. No HTTP, no SQL, no Redis."""
