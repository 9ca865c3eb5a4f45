"""The workers that are there."""

from sqlalchemy import Column, Integer, Table, Text
from sqlalchemy.dialects.postgresql import JSONB

from jobs.tables.base import metadata, now

workers = Table(
    "workers",
    metadata,
    Column("name", Text, primary_key=True),
    Column("num_slots", Integer, nullable=False),
    Column("devices", JSONB, nullable=False),
    now("started_at"),
    now("seen_at"),
)
