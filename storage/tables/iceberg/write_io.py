"""Files in memory, where pyiceberg's manifest writers and readers find and leave their bytes.

The bytes themselves travel through `Blobs`, so that every put of a commit is a put-if-absent with our own retries.
"""

from __future__ import annotations

import io
from typing import Any

from pyiceberg.io import FileIO, InputFile, InputStream, OutputFile, OutputStream

__all__ = ["MemoryIO"]


class MemoryIO(FileIO):
    """A dictionary of files. ``files`` maps the location, as metadata spells it, to the bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[str, bytes] = {}

    def new_input(self, location: str) -> InputFile:
        return _Input(location, self.files)

    def new_output(self, location: str) -> OutputFile:
        return _Output(location, self.files)

    def delete(self, location: str | InputFile | OutputFile) -> None:
        self.files.pop(location if isinstance(location, str) else location.location, None)


class _Input(InputFile):
    def __init__(self, location: str, files: dict[str, bytes]) -> None:
        super().__init__(location)
        self._files = files

    def __len__(self) -> int:
        return len(self._files[self.location])

    def exists(self) -> bool:
        return self.location in self._files

    def open(self, seekable: bool = True) -> InputStream:  # noqa: ARG002 - the contract of pyiceberg
        return io.BytesIO(self._files[self.location])


class _Output(OutputFile):
    def __init__(self, location: str, files: dict[str, bytes]) -> None:
        super().__init__(location)
        self._files = files

    def __len__(self) -> int:
        return len(self._files[self.location])

    def exists(self) -> bool:
        return self.location in self._files

    def to_input_file(self) -> InputFile:
        return _Input(self.location, self._files)

    def create(self, overwrite: bool = False) -> OutputStream:  # noqa: ARG002 - the contract of pyiceberg
        return _Stream(self.location, self._files)


class _Stream(io.BytesIO):
    """Keeps what was written when it is closed."""

    def __init__(self, location: str, files: dict[str, bytes]) -> None:
        super().__init__()
        self._location, self._files = location, files

    def close(self) -> None:
        if not self.closed:
            self._files[self._location] = self.getvalue()
        super().close()

    def __exit__(self, *_exception: Any) -> None:
        self.close()
