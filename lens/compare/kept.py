"""What long work has done so far, kept in a file, a line a piece: whoever stops goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Kept:
    """Results by key.

    Attributes:
        found: what was done, in this run and in earlier ones. A line that a kill has cut in two is dropped.
    """

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file = file
        self.found: dict[str, dict[str, Any]] = {}
        data = file.read_bytes() if file.is_file() else b""
        whole = 0
        for line in data.splitlines(keepends=True):
            try:
                row = json.loads(line) if line.endswith(b"\n") else {}
                self.found[row["job"]] = row["found"]
            except (ValueError, KeyError, TypeError):
                break  # where a run was killed
            whole += len(line)
        if whole < len(data):
            with file.open("r+b") as stream:
                stream.truncate(whole)

    def add(self, results: Mapping[str, dict[str, Any]]) -> None:
        """Append results, by key."""
        rows = [{"job": key, "found": found} for key, found in results.items()]
        with self.file.open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
        self.found |= results
