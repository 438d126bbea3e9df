"""Files into a table: `firn import`. Read in blocks, decoded and checked here, appended a block at a time.

1. A block is stored whole or not at all, under an idempotency key made from the file's name, size and time of change
   and the block's place in it: the same import, run again within the log's window, stores nothing twice.
2. A row that is wrong stops the import before its block is stored, or is left out and reported.
"""
