"""The catalogue's tables."""

from __future__ import annotations

from sqlalchemy import Column, DateTime, LargeBinary, MetaData, Table, Text, func

metadata = MetaData(naming_convention={"pk": "%(table_name)s_pkey"})

definitions = Table(
    "definitions",
    metadata,
    Column("slug", Text, primary_key=True),
    Column("version", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("saved", DateTime(timezone=True), nullable=False, server_default=func.now()),
)
