"""What all tables share."""

from enum import StrEnum
from typing import Any

from sqlalchemy import Column, DateTime, MetaData, Text, TypeDecorator, func

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def now(name: str) -> Column[object]:
    """Return a column that holds when its row was made, by the database's clock."""
    return Column(name, DateTime(timezone=True), nullable=False, server_default=func.now())


class Member(TypeDecorator[StrEnum]):
    """Text that is read as a member of an enumeration."""

    impl = Text
    cache_ok = True

    def __init__(self, kind: type[StrEnum]) -> None:
        super().__init__()
        self.kind = kind

    def process_result_value(self, value: Any, dialect: Any) -> StrEnum | None:  # noqa: ARG002
        """Return a column's text as the member; a null is none."""
        return None if value is None else self.kind(value)
