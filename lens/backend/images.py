"""An image file of any common kind becomes one RGB picture.

Invariants. The size is read from the header and checked *before* a pixel is decoded, so that a small file which unpacks
to gigabytes costs nothing. Whatever the bytes are, the outcome is a :class:`Picture` or an error of ``lens.errors``.
A picture's coordinates are pixels after EXIF rotation: x to the right, y down, (0, 0) the top left corner.
A picture keeps its file, not its pixels; those that were decoded last are shared by all threads, up to
:data:`DECODED_BYTES`, and are never written to.
"""

from __future__ import annotations

import functools
import hashlib
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from lens.backend.cache import BoundedCache
from lens.backend.pixels import FORMATS, load, to_rgb, turn_of
from lens.backend.structure import TooElaborate, format_of
from lens.errors import ImageTooLarge, ImageUnreadable

MAX_PIXELS = 64_000_000
"""Pixels that are decoded at most: above the 50 megapixels of today's telephones; 192 MB as RGB."""

DECODED_BYTES = 512 << 20
"""Memory for decoded pictures; the least recently used go first, and are decoded again when they are asked for."""

PIXEL = 4
"""Bytes of a pixel in memory: Pillow keeps RGB in four."""

MAX_WEBP = 56_000_000
"""Pixels of a WebP, whose decoder keeps four times what it decodes to."""

MAX_SIDE = 1_000_000
"""Pixels of a side at most: Pillow keeps eight bytes for each row besides its pixels."""

MAX_BYTES = 100_000_000
"""Bytes of a file at most."""

KINDS = "PNG, JPEG, WebP, BMP, TIFF or GIF"

_DECODED: BoundedCache[Image.Image] = BoundedCache(DECODED_BYTES, lambda image: PIXEL * image.width * image.height)


@dataclass(frozen=True)
class Picture:
    """An opened image. Two pictures are equal when their bytes and names are."""

    source: bytes | Image.Image = field(compare=False, repr=False)
    """The file, or a picture that was made here."""
    name: str
    """The file's name as given: untrusted text."""
    digest: str
    """SHA-256 of the file's bytes, in hex."""
    width: int = field(init=False, compare=False)
    """Pixels from left to right, after EXIF rotation."""
    height: int = field(init=False, compare=False)
    """Pixels from top to bottom, after EXIF rotation."""

    def __post_init__(self) -> None:
        width, height = self.image.size
        object.__setattr__(self, "width", width)
        object.__setattr__(self, "height", height)

    @property
    def image(self) -> Image.Image:
        """RGB; first frame; upright; alpha composited on white. Not to be written to."""
        source = self.source
        if isinstance(source, Image.Image):
            return source
        return _DECODED.get(self.digest, lambda: _decode(source, _shown(self.name)))

    @property
    def nbytes(self) -> int:
        """Memory that whoever keeps it keeps with it."""
        return len(self.source) if isinstance(self.source, bytes) else PIXEL * self.width * self.height


@functools.cache
def endings() -> frozenset[str]:
    """How names of readable files end, with the dot, in small letters: Pillow's own list for the formats that are read, for
    JPEGs of several pictures (MPO) and for BMP's other name. To list a folder; what a file is, its content says."""
    formats = {*FORMATS, "MPO", "DIB"}
    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in formats)


def open_picture(source: bytes | str | Path, name: str | None = None) -> Picture:
    """Open an image from its bytes or its path.

    ``name`` is what the picture is called in messages and exports; by default the path's last part.

    Raises ImageUnreadable for what can't be decoded to the end, ImageTooLarge for more than ``MAX_BYTES`` bytes or
    ``MAX_PIXELS`` pixels, or of too many parts (found before decoding).
    """
    name = name or ("image" if isinstance(source, bytes) else Path(source).name)
    shown = _shown(name)
    data = source if isinstance(source, bytes) else _read(Path(source), shown)
    if not data:
        raise ImageUnreadable(f"{shown} is empty (0 bytes); choose a {KINDS} file.")
    if len(data) > MAX_BYTES:
        raise _too_many_bytes(shown, len(data))
    return Picture(data, name, hashlib.sha256(data).hexdigest())


def _shown(name: str) -> str:
    """A name for one line of a message: no control or direction-changing characters, at most 80 characters."""
    plain = "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c).startswith("C") else c for c in name)
    return f"“{plain if len(plain) <= 80 else plain[:77] + '…'}”"


def _read(path: Path, shown: str) -> bytes:
    try:
        if not path.is_file():
            found = "is a folder or device" if path.exists() else "does not exist"
            raise ImageUnreadable(f"The image file {shown} {found}; give the path of a {KINDS} file.")
        if (size := path.stat().st_size) > MAX_BYTES:
            raise _too_many_bytes(shown, size)
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageUnreadable(
            f"The image file {shown} can't be read ({reason}); give the path of a {KINDS} file."
        ) from error


def _too_many_bytes(shown: str, size: int) -> ImageTooLarge:
    return ImageTooLarge(
        f"{shown} has {size / 1e6:.1f} MB, more than the {MAX_BYTES / 1e6:.0f} MB that are read here; "
        "save a smaller version of it."
    )


def _decode(data: bytes, shown: str) -> Image.Image:
    try:
        picture, turn = _pixels(data, shown)
        return picture if turn is None else picture.transpose(turn)
    except (ImageTooLarge, ImageUnreadable):
        raise
    except TooElaborate as error:
        raise ImageTooLarge(f"{shown} {error}; save it again as a plain PNG or JPEG.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageTooLarge(
            f"{shown} declares far more pixels than the {MAX_PIXELS / 1e6:.0f} megapixels that are decoded here; "
            "scale it down."
        ) from error
    except UnidentifiedImageError as error:
        if (kind := format_of(data)) is not None:
            raise ImageUnreadable(
                f"{shown} is a damaged {kind}, or of bits, colours or packing that aren't read here; save it again as a "
                "plain PNG or JPEG."
            ) from error
        raise ImageUnreadable(
            f"{shown} is no image that can be read: its {len(data):,} bytes don't begin like a {KINDS} file, "
            "whatever its name says; choose another file."
        ) from error
    except Exception as error:
        # Decoders of damaged bytes raise whatever comes up (OSError, SyntaxError, struct.error, IndexError, ...).
        raise ImageUnreadable(
            f"{shown} is a damaged or incomplete image ({_reason(error)}); save or download it again."
        ) from error


def _pixels(data: bytes, shown: str) -> tuple[Image.Image, Image.Transpose | None]:
    """What the file shows, and how it must be turned; what it was decoded to is given up before it is turned."""
    image = load(data, lambda stored: _check_size(stored, shown))
    return to_rgb(image), turn_of(image)


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:120].rstrip(".") or type(error).__name__


def _check_size(stored: Image.Image, shown: str) -> None:
    width, height = stored.size
    most = MAX_WEBP if stored.format == "WEBP" else MAX_PIXELS
    if width < 1 or height < 1:
        raise ImageUnreadable(f"{shown} is {width} x {height} pixels: there is nothing to see; choose another file.")
    if width * height > most:
        raise ImageTooLarge(
            f"{shown} is {width} x {height} pixels ({width * height / 1e6:.0f} megapixels), more than the "
            f"{most / 1e6:.0f} megapixels that are decoded here; scale it down."
        )
    if max(stored.size) > MAX_SIDE:
        raise ImageTooLarge(
            f"{shown} is {width} x {height} pixels, longer than the {MAX_SIDE:,} pixels of a side that are decoded here; "
            "cut it up."
        )
