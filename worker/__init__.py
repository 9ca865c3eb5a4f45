"""The Celery worker: takes a job, supervises its training process, stores its model. No torch."""
