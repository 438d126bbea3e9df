"""Which module runs which statement. They are imported as they are needed, since most processes need few."""

from __future__ import annotations

from service.write.context import Outcome, Work
from service.write.statements import (
    AlterTable,
    CopyFrom,
    CopyTo,
    CreateIndex,
    CreateTable,
    Delete,
    DropIndex,
    DropTable,
    Insert,
    Merge,
    Optimize,
    Restore,
    Truncate,
    Update,
    Vacuum,
    Write,
)

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
        case CreateIndex():
            from service.write.index import create_index

            return await create_index(work, write)
        case DropIndex():
            from service.write.index import drop_index

            return await drop_index(work, write)
        case Truncate():
            from service.write.overwrite import truncate

            return await truncate(work, write)
        case Merge():
            from service.write.merge import merge

            return await merge(work, write)
        case Optimize():
            from service.write.maintain import optimize

            return await optimize(work, write)
        case Vacuum():
            from service.write.maintain import vacuum

            return await vacuum(work, write)
        case Restore():
            from service.write.maintain import restore

            return await restore(work, write)
        case AlterTable():
            from service.write.alter import alter_table

            return await alter_table(work, write)
        case CopyFrom():
            from service.write.copy import copy_from

            return await copy_from(work, write)
        case CopyTo():
            from service.write.copy import copy_to

            return await copy_to(work, write)
