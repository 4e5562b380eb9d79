"""A folder of pictures as a stream: one in memory at a time; what can't be read is skipped, and counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lens.backend.images import KINDS, Picture, open_picture
from lens.errors import ImagesMissing, ImageTooLarge, ImageUnreadable

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"})


class PictureFolder:
    """The pictures directly in a folder, by name; a picture that is there twice is given once.

    Attributes:
        skipped: what was left out in the latest pass: file name and reason.
    """

    def __init__(self, folder: Path | str, limit: int | None = None) -> None:
        """List the folder; ``limit`` takes that many files at most, spread evenly over it.

        Raises:
            ImagesMissing: no such folder, or no file in it with an image's name.
        """
        path = Path(folder)
        if not path.is_dir():
            raise ImagesMissing(f"There is no folder {path.name!r}; give one that holds {KINDS} files.")
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
        if not files:
            raise ImagesMissing(f"The folder {path.name!r} holds no images; give one that holds {KINDS} files.")
        if limit is not None and limit < len(files):
            files = [files[i * len(files) // limit] for i in range(limit)]
        self.files = tuple(files)
        self.skipped: list[tuple[str, str]] = []

    def __len__(self) -> int:
        """Files, readable or not."""
        return len(self.files)

    def __iter__(self) -> Iterator[Picture]:
        self.skipped = []
        seen: set[str] = set()
        for file in self.files:
            try:
                picture = open_picture(file)
            except (ImageUnreadable, ImageTooLarge) as error:
                self.skipped.append((file.name, str(error)))
                continue
            if picture.digest in seen:
                self.skipped.append((file.name, "The same picture is in the folder under another name."))
                continue
            seen.add(picture.digest)
            yield picture
