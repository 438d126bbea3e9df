"""A query's text as DataFusion takes it: its parameters, functions of ours, guarded grouping sets, both zeros."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
from datafusion import DataFrame, ExecutionPlan, SessionContext

from functions.session import OWN_FUNCTIONS, READ_ONLY, Session
from service.answer_schema import answered, settled
from service.exact import ExactLiteral, bind, with_noise
from service.grouping_sets import GROUPING_WORDS, guarded
from service.own_functions import called, with_types
from service.parsed import Parsed
from service.zeros import ZERO_WORDS, may_compare_zero, with_both_zeros

if TYPE_CHECKING:
    from functions.statement_time import Moment

__all__ = ["QueryText"]


class QueryText:
    """The text of one query, planned in contexts where its names resolve.

    moment : what ``now()`` is in it, once somebody has said so
    """

    def __init__(self, session: Session, parsed: Parsed) -> None:
        self._session, self._parsed = session, parsed
        self._text, self.params = parsed.text, parsed.params
        self.functions = frozenset[str]() if parsed.words.isdisjoint(OWN_FUNCTIONS) else called(parsed.tokens)
        self.moment: Moment | None = None
        self._columns: list[str] | None = None
        self._written_columns: list[str] | None = None
        """The names of the columns as the query was written, where what `find_zeros` made of it has others."""

    @property
    def explained(self) -> str:
        """The query that an EXPLAIN is of, in its place; any other query as it is."""
        start = self._parsed.explained
        return " " * start + self._text[start:]

    @property
    def may_compare_zero(self) -> bool:
        """Whether `find_zeros` may have to change it."""
        return not self._parsed.words.isdisjoint(ZERO_WORDS) and may_compare_zero(self._parsed.tokens, self.params)

    def find_zeros(self, context: SessionContext) -> None:
        """Let its comparisons with zero find both zeros. Raises what the engine says of the text as it was written."""
        start = self._parsed.explained
        written = self.written(context, self.explained)
        changed = with_both_zeros(self.explained, self.params, written.optimized_logical_plan().display_indent())
        if changed == self.explained:
            return
        try:
            self.written(context, changed).optimized_logical_plan()
        except Exception:  # noqa: BLE001 - it names a column as the engine does, by its expression
            return
        if not self._text[:start].strip():
            self._written_columns = written.schema().names
        self._text = self._text[:start] + changed[start:]

    def bind(self, literals: Sequence[ExactLiteral], shown: str) -> None:
        """Make parameters of the literals that a plan compares with decimals as doubles."""
        self._text, bound = bind(self._text, with_noise(literals, shown))
        self.params = self.params | bound

    def frame(self, context: SessionContext, text: str | None = None) -> DataFrame:
        """Return the query, or the one that ``text`` is, to be run."""
        text = self._text if text is None else text
        if self.moment is not None:
            self._session.set_moment(self.moment)
        grouped = None if self._parsed.words.isdisjoint(GROUPING_WORDS) else self._grouped(context, text)
        return self.written(context, text) if grouped is None else grouped

    def plan(self, context: SessionContext, frame: DataFrame | None = None, text: str | None = None) -> ExecutionPlan:
        """Return the physical plan of ``frame``, or of what `frame` returns."""
        made = self.frame(context, text) if frame is None else frame
        return self._session.plan_of(made, lambda: self.frame(context, text))

    def written(self, context: SessionContext, text: str) -> DataFrame:
        """Return the query that a text is, in which functions of ours may be called."""
        params = self.params or None
        if self.moment is not None:
            self._session.set_moment(self.moment)
        if "time_bucket" not in self.functions:
            return context.sql_with_options(text, READ_ONLY, param_values=params)
        try:
            return context.sql_with_options(with_types(text), READ_ONLY, param_values=params)
        except Exception:
            try:
                context.sql_with_options(text, READ_ONLY, param_values=params)
            except Exception as error:
                if "ParserError(" in str(error):  # its place is that in the statement as it was written
                    raise error from None
            raise

    def _grouped(self, context: SessionContext, text: str) -> DataFrame | None:
        """Return the query that a text is, with its grouping sets guarded; None if it has none, or does not plan so."""
        self._columns = None
        params, start = self.params or None, self._parsed.explained

        def planned(text: str) -> DataFrame:
            return context.sql_with_options(text, READ_ONLY, param_values=params)

        for named in (True, False):
            try:
                typed = with_types(text) if "time_bucket" in self.functions else text
                found = guarded(" " * start + typed[start:], named=named)
                if found is None:
                    return None
                frame = planned(found)
                self._session.plan_of(frame, partial(planned, found))
                columns = planned(typed).schema().names
                frame = planned(typed[:start] + found[start:]) if typed[:start].strip() else frame
            except Exception:  # noqa: BLE001 - the text as it was written has an error of its own, or none
                continue
            self._columns = columns
            return frame
        return None

    def schema(self, context: SessionContext, frame: DataFrame) -> pa.Schema:
        """Return the schema of the answer, with the names of the text as it was written."""
        schema = settled(context, frame)
        columns = self._written_columns or self._columns
        if columns is not None:
            schema = pa.schema([each.with_name(name) for each, name in zip(schema, columns, strict=True)])
        return answered(schema)
