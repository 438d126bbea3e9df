"""Rows from outside into tables: bodies are decoded and checked whole, then appended to the log.

1. Nothing of a request is stored unless all of its rows are right. An error names the row, the column and the value.
2. No value is changed to fit: a number is refused rather than rounded or cut, a decimal is read digit by digit. Only
   floating-point columns round, as they must.
3. What a body may take up in memory is bounded before it is decoded.

``docs/ingest.md`` says which text is which value.
"""
