"""Which module runs which statement. They are imported as they are needed, since most processes need few."""

from __future__ import annotations

from service.write.context import Outcome, Work
from service.write.statements import (
    AlterTable,
    CreateTable,
    Delete,
    DropTable,
    Insert,
    Merge,
    Truncate,
    Update,
    Write,
)
from storage.errors import UnsupportedError

__all__ = ["dispatch"]


async def dispatch(work: Work, write: Write) -> Outcome:
    """Run a parsed statement."""
    match write:
        case Insert():
            from service.write.insert import insert

            return await insert(work, write)
        case Update():
            from service.write.modify import update

            return await update(work, write)
        case Delete():
            from service.write.modify import delete

            return await delete(work, write)
        case CreateTable():
            from service.write.create import create_table

            return await create_table(work, write)
        case DropTable():
            from service.write.drop import drop_table

            return await drop_table(work, write)
        case Truncate():
            from service.write.overwrite import truncate

            return await truncate(work, write)
        case Merge():
            from service.write.merge import merge

            return await merge(work, write)
        case AlterTable():
            from service.write.alter import alter_table

            return await alter_table(work, write)
        case _:
            raise UnsupportedError("this statement is not supported", statement=type(write).__name__)
