"""Indexes: where in a table's files the rows of a key are.

1. An index never changes an answer. It says which row ranges of which files *may* hold a key; whoever asks reads these
   rows and compares the keys themselves. What it leaves out is certain only for the files that it *covers*.
2. A file is covered while it is what was indexed: the same location and size, and the same etag wherever either
   side knows one. Files that are not covered are scanned.
3. A `segment.Segment` is immutable and indexes some files of one table. Segments are named, with their checksums, by
   the catalog's `catalog.indexes.IndexEntry`; one that is missing or damaged covers nothing.
4. New files get a new segment; segments of like size are merged by indexing their files anew, so a table has few.

``keyspace`` turns keys into numbers; ``piecewise`` and ``fuse_map`` are the two models; ``segment`` is their stored
form; ``build`` makes one from files; ``columns`` finds an index's columns in a version of the table; ``models`` holds
the segments in use; ``plan`` decides and ``maintain`` does what keeps an index in step with its table; ``keep`` is a
pass over the indexes of many tables.
"""
