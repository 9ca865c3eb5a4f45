"""The peer of `submit`: FastAPI and SQLAlchemy, one route that inserts the row of a job."""

import os
from typing import Any

from fastapi import FastAPI
from sqlalchemy import create_engine, insert

from jobs.identifiers import new_id
from jobs.tables import jobs

app = FastAPI()
engine = create_engine(os.environ["LUTHIER_DATABASE_URL"], pool_size=20)


@app.post("/jobs", status_code=201)
def create_job(spec: dict[str, Any]) -> dict[str, Any]:
    """Insert the row that the service makes of the same spec, and answer with it."""
    with engine.begin() as connection:
        statement = insert(jobs).values(
            id=new_id("job"),
            name=spec["name"],
            task=spec["task"],
            model=spec["model"],
            spec=spec,
            dataset_ids=[spec["data"]["train"].removeprefix("dataset:")],
            labels=spec["labels"],
            priority=spec["resources"]["priority"],
            state="queued",
            max_attempts=3,
        )
        return dict(connection.execute(statement.returning(jobs)).one()._mapping)
