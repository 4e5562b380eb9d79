"""The models one can pick: a table of rows in ``catalog.toml``, which a user extends with a file of the same form."""

from __future__ import annotations

import importlib
import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path

from lens.errors import CatalogInvalid, ModelMissing
from lens.home import home
from lens.progress import Report, silent

SHIPPED = Path(__file__).with_name("catalog.toml")
_TRUSTED_KEYS = ("register", "setup", "made_from", "mask_head")


@dataclass(frozen=True)
class ModelSpec:
    """One row: what to load and how. ``name`` is what one types; ``source`` is a hub id or a local folder."""

    name: str
    source: str
    title: str = ""
    note: str = ""
    revision: str | None = None
    dtype: str = "float32"
    device: str = "cpu"
    trust_remote_code: bool = False
    register: str | None = None
    setup: str | None = None
    made_from: str | None = None
    index: str | None = None
    mask_head: str | None = None
    says_seg: str = ""
    masks_well: str = ""

    @property
    def folder(self) -> Path | None:
        """The local folder, if ``source`` is one (whether or not it is there yet)."""
        path = _path(self.source)
        return path if path and (self.setup or path.is_absolute() or path.is_dir()) else None


def catalog() -> dict[str, ModelSpec]:
    """All rows by name: those shipped, then those of ``<cache folder>/catalog.toml``."""
    rows = _read(SHIPPED, shipped=True)
    own = home() / "catalog.toml"
    if own.is_file():
        rows.update(_read(own, shipped=False))
    return rows


def find(name: str) -> ModelSpec:
    """The row of that name; else a spec for a local folder or a hub id of the form ``owner/name``."""
    rows = catalog()
    if name in rows:
        return rows[name]
    folder = _path(name)
    if name and folder and folder.is_dir():
        folder = folder.resolve()
        return ModelSpec(name=folder.name, source=str(folder), title=folder.name)
    if name.count("/") == 1 and _is_hub_id(name):
        return ModelSpec(name=name, source=name, title=name)
    raise ModelMissing(
        f"There is no model {name[:80]!r}: give one of {', '.join(rows)}, a folder that exists, or a hub id such as "
        "owner/name."
    )


def on_disk(spec: ModelSpec) -> bool:
    """Whether the model can be loaded without a network."""
    if spec.folder is not None:
        return (spec.folder / "config.json").is_file()
    if not _is_hub_id(spec.source):
        return False
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(spec.source, "config.json", revision=spec.revision), str)


def ready(spec: ModelSpec) -> bool:
    """Whether the model can be had without a network: it is on disk, or ``setup`` makes it from a row's that is."""
    base = catalog().get(spec.made_from) if spec.made_from else None
    return on_disk(spec) or (base is not None and ready(base))


def prepare(spec: ModelSpec, report: Report = silent) -> None:
    """Make the model's folder by its ``setup`` where the row has one; that function does nothing when all is there."""
    if spec.setup:
        module, function = spec.setup.split(":")
        getattr(importlib.import_module(module), function)(spec.name, report)


def _path(text: str) -> Path | None:
    """The path that ``text`` spells; ``None`` for what can't be one (too long, an unknown ``~user``)."""
    try:
        path = Path(text).expanduser()
        path.is_dir()
    except (OSError, RuntimeError, ValueError):
        return None
    return path


def _is_hub_id(name: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _read(path: Path, shipped: bool) -> dict[str, ModelSpec]:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CatalogInvalid(f"The catalog {path} is not valid TOML: {error}; mend or remove the file.") from error
    return {name: _row(path, name, row, shipped) for name, row in table.items()}


def _row(path: Path, name: str, row: object, shipped: bool) -> ModelSpec:
    kinds = {field.name: field.type for field in fields(ModelSpec) if field.name != "name"}
    if not isinstance(row, dict) or "source" not in row:
        raise CatalogInvalid(f"In {path}, [{name}] needs a key 'source' (a hub id or a folder); add it.")
    for key, value in row.items():
        if key not in kinds or (key in _TRUSTED_KEYS and not shipped):
            allowed = ", ".join(k for k in kinds if shipped or k not in _TRUSTED_KEYS)
            raise CatalogInvalid(f"In {path}, [{name}] has an unknown key {key!r}; known are {allowed}.")
        wanted = bool if kinds[key] == "bool" else str
        if not isinstance(value, wanted):
            raise CatalogInvalid(f"In {path}, [{name}] key {key!r} is {value!r}, but a {wanted.__name__} is expected.")
    spec = ModelSpec(name=name, **row)
    return replace(spec, source=spec.source.replace("{home}", str(home())), title=spec.title or name)
