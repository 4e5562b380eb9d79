"""Pictures as a stream, one in memory at a time: read from a folder, where what can't be read is skipped and counted;
traced, with progress; and classified.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path

from lens.backend.encoding import Encoded, encode
from lens.backend.images import KINDS, Picture, endings, open_picture
from lens.backend.loading import LoadedModel
from lens.backend.tracing import Trace, trace
from lens.embedlens.anchors import Anchors
from lens.embedlens.classes import TokenClasses, classify
from lens.errors import ImagesMissing, ImageTooLarge, ImageUnreadable
from lens.progress import Report, silent


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
        try:
            if not path.is_dir():
                raise ImagesMissing(f"There is no folder {path.name[:80]!r}; give one that holds {KINDS} files.")
            files = sorted(p for p in path.iterdir() if p.suffix.lower() in endings() and p.is_file())
        except OSError as error:
            reason = error.strerror or error
            raise ImagesMissing(
                f"The folder {path.name[:80]!r} can't be read ({reason}); give one that holds {KINDS} files."
            ) from error
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


@dataclass(frozen=True, eq=False)
class Traced:
    """One picture of a stream.

    Attributes:
        report: for the progress of further work on this picture, within that of the stream.
    """

    picture: Picture
    encoded: Encoded
    held: Trace
    report: Report


def traced(
    loaded: LoadedModel, pictures: Iterable[Picture], prompt: str, sites: Sequence[str], report: Report = silent
) -> Iterator[Traced]:
    """Each of ``pictures`` encoded and traced at ``sites``, when it is asked for.

    Raises:
        ImagesMissing: at the end, if there was none.
        Cancelled: raised by ``report``.
    """
    total = len(pictures) if isinstance(pictures, Sized) else 0
    number = -1
    for number, picture in enumerate(pictures):
        name = f"Image {number + 1:,}: {picture.name}"

        def inner(done: float, of: float, message: str, at: int = number, name: str = name) -> None:
            report(at + (done / of if of else 1), total, f"{name}: {message}")

        report(number, total, name)
        encoded = encode(loaded, prompt, picture)
        yield Traced(picture, encoded, trace(loaded, encoded, sites), inner)
    if number < 0:
        raise ImagesMissing("None of the images could be read; give a folder with images that open.")


def classified(
    loaded: LoadedModel,
    pictures: Iterable[Picture],
    prompt: str,
    anchors: Anchors,
    layer: int = 0,
    rule: int = 3,
    min_cosine: float = 0.0,
    report: Report = silent,
) -> Iterator[tuple[Traced, TokenClasses]]:
    """Each of ``pictures`` traced at one layer, with the classes of its visual tokens there; see :func:`traced` and
    :func:`~lens.embedlens.classes.classify`."""
    for each in traced(loaded, pictures, prompt, [f"hidden.{layer}"], report):
        yield each, classify(loaded, each.held, anchors, layer, rule, min_cosine)
