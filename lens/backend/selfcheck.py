"""What a model was found able to give: the checks of :mod:`lens.backend.checking`, run once when it is first used.

The report is kept in ``checks`` of the cache folder under all that it depends on: weights, family row, tokenizer,
processor, chat template, dtype, these checks and the version of transformers. Those of the offline models come with the
project (:data:`SHIPPED`), so that a first start waits for no check: ``python -m lens check demo`` makes one anew, and its
file in the cache folder is what is shipped. A lens names the checks that it :func:`needs`; where one of them failed it is
refused with a sentence, and the others go on.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from weakref import WeakKeyDictionary

import transformers

from lens.backend.checking import Check, Report, check
from lens.backend.files import write_json
from lens.backend.loading import LoadedModel
from lens.errors import CapabilityMissing, LensError
from lens.home import home
from lens.progress import Report as Progress
from lens.progress import silent

VERSION = 3
"""Of the checks: raised when one of them changes, so that models are checked again."""

STATES = ("places", "layers")
"""What everything that reads states at layers rests on."""
PATCHES = (*STATES, "visual positions", "patches")
"""What everything rests on that shows states of visual tokens where they lie in the picture."""


SHIPPED = Path(__file__).parent / "checks"
"""Reports that come with the project, under the same names as in the cache folder."""

_HELD: WeakKeyDictionary[LoadedModel, Report] = WeakKeyDictionary()
"""Of the models in memory, so that a page asks no disk."""


def checked(loaded: LoadedModel, report: Progress = silent) -> Report:
    """The report about ``loaded``: the one on file, else made now and kept."""
    with loaded.lock:  # a second asker waits for the first one's report
        held = _HELD.get(loaded) or known(loaded)
        if held is None:
            try:
                held = check(loaded, report=report)
            except LensError:
                raise
            except Exception as error:  # a model may break in ways of its own
                held = _broken_off(loaded, error)
            else:
                try:
                    write_json(_path(loaded), asdict(held))
                except OSError:  # a full or read-only cache folder: the model is checked again next time
                    pass
        _HELD[loaded] = held
    return held


def known(loaded: LoadedModel) -> Report | None:
    """The report about ``loaded`` that is on file, here or with the project; ``None`` while it was never checked."""
    path = _path(loaded)
    return _read(path, loaded) or _read(SHIPPED / path.name, loaded)


def keep(loaded: LoadedModel, report: Report) -> None:
    """Put a report that was just made on file."""
    _HELD[loaded] = report
    write_json(_path(loaded), asdict(report))


def needs(report: Report, what: str, *checks: str) -> None:
    """Refuse ``what`` in a sentence if one of ``checks`` failed.

    Raises:
        CapabilityMissing: names the first failed check and what it found.
    """
    for one in report.checks:
        if one.passed is False and one.name in checks:
            raise CapabilityMissing(
                f"{what} is off for {report.model}: the model fails the check {one.name!r} ({one.why.rstrip('.')}); "
                f"`python -m lens check {report.model}` says more. Choose another model."
            )


def sentence(report: Report) -> str:
    """The report in one sentence."""
    failed = [one.name for one in report.checks if one.passed is False]
    unasked = [one for one in report.checks if one.passed is None]
    if failed:
        return (
            f"Checked against itself: {len(failed)} of {len(report.checks)} checks fail ({', '.join(failed)}), so off "
            f"is: {', '.join(report.off)}."
        )
    told = f"Checked against itself: all {len(report.checks) - len(unasked)} checks pass"
    return f"{told}. {unasked[0].why}" if unasked else f"{told}."


def _broken_off(loaded: LoadedModel, error: Exception) -> Report:
    """What breaks the checks would break every lens, or worse, wouldn't: so everything is off. Not kept on file, since the
    cause may be gone next time (too little memory, say)."""
    why = f"The checks themselves broke off ({type(error).__name__}: {' '.join(str(error).split())[:160]})."
    failed = Check("places", False, why, "everything")
    return Report(loaded.name, loaded.anatomy.family.name, loaded.model.config.model_type, (failed,))


def _path(loaded: LoadedModel) -> Path:
    parts = (
        VERSION,
        transformers.__version__,
        loaded.fingerprint,
        loaded.tokenizer_hash,
        str(loaded.dtype),
        repr(loaded.anatomy.family),
        _settings(loaded),
    )
    return home() / "checks" / f"{hashlib.sha256(repr(parts).encode()).hexdigest()[:32]}.json"


def _settings(loaded: LoadedModel) -> str:
    """Of the processor and its parts, and the chat templates: a checkpoint may come with others."""
    settings = [] if loaded.processor is None else [loaded.processor.to_dict(), loaded.processor.chat_template]
    return json.dumps([*settings, loaded.tokenizer.chat_template], sort_keys=True, default=str)


def _read(path: Path, loaded: LoadedModel) -> Report | None:
    """What is on file, under the name that the model has now; ``None`` if there is nothing, or nothing to be read."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        checks = tuple(Check(**one) for one in held["checks"])
        return Report(loaded.name, held["family"], held["model_type"], checks) if checks else None
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return None
