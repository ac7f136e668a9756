"""Where a benchmark's rows come from: a folder of its original files, or the Hub at a pinned revision.

The rows are counted and hashed, and refused when they are not those that the adapter was checked with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pytest_trust.catalog.public.adapter import Adapter, Checked, Hub, Layout, NotFound, Record
from pytest_trust.catalog.public.rows import File, Row, check_fields, read_rows
from pytest_trust.errors import InvalidInput

HUB: Final = "hub"
"""The value of `--trust-data` that takes rows from the Hub, unless a folder has that name."""


@dataclass(frozen=True, slots=True)
class Found:
    """Records with their source in words, their hash, and what a report must say about them."""

    records: tuple[Record, ...]
    source: str
    sha256: str
    notes: tuple[str, ...]


def row_hash(records: Sequence[Record]) -> str:
    """SHA-256 of the records as sorted JSON lines with sorted keys. The order of the rows does not matter."""
    lines = sorted(json.dumps(record, sort_keys=True, ensure_ascii=False, separators=(",", ":")) for record in records)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def find_records(adapter: Adapter, *, data: Path | None = None, accept_data_change: bool = False) -> Found:
    """All records of a benchmark. Raises NotFound when no source has them, InvalidInput for broken or changed ones."""
    if adapter.generate is not None:
        return accept(adapter, adapter.generate(), "made by the adapter", None, False)
    located = find_files(adapter, data)
    if located is not None:
        layout, paths = located
        tables = [read_rows(path, file) for path, file in zip(paths, layout.files, strict=True)]
        source = ", ".join(dict.fromkeys(path.name for path in paths))
        return accept(adapter, layout.read(tables), source, layout.checked, accept_data_change)
    if adapter.hub is None:
        raise NotFound(how_to_get(adapter, data))
    hub = adapter.hub
    return accept(
        adapter,
        hub.read(hub_tables(adapter, hub, data)),
        hub.source,
        hub.checked,
        accept_data_change,
    )


def accept(
    adapter: Adapter, records: Sequence[Record], source: str, checked: Checked | None, accept_data_change: bool
) -> Found:
    """The records with their notes. Raises InvalidInput for records other than the checked ones, unless accepted.

    The notes say when the user has accepted a change.
    """
    if not records:
        raise InvalidInput(f"{adapter.name}: {source} gives no rows, expected some")
    digest = row_hash(records)
    notes: tuple[str, ...] = ()
    if checked is None and adapter.generate is None:
        notes = (
            f"{adapter.name}: {len(records)} rows of {source} with hash {digest[:12]}; the adapter was not checked "
            "with real rows",
        )
    elif checked is not None and (len(records), digest) != (checked.rows, checked.sha256):
        words = (
            f"{source} gives {len(records)} rows with hash {digest[:12]}, and the suite was checked with "
            f"{checked.rows} rows with hash "
            f"{checked.sha256[:12]}"
        )
        if not accept_data_change:
            raise InvalidInput(
                f"{adapter.name}: {words}: get that version, or take these rows with --trust-accept-data-change"
            )
        notes = (f"{adapter.name}: data change accepted: {words}",)
    elif adapter.hub is not None and source == adapter.hub.source and adapter.hub.revision is None:
        notes = (
            f"{adapter.name}: {source}: the rows are those that the suite was checked with, by their number and hash",
        )
    return Found(tuple(records), source, digest, notes)


def find_files(adapter: Adapter, data: Path | None) -> tuple[Layout, list[Path]] | None:
    """The first layout whose files are all in the folder, with their paths.

    None for HUB, and when the folder has no file of any layout. Raises NotFound when it has only some of them, and
    InvalidInput when there is no such folder.
    """
    if data is None or (data.name == HUB and not data.is_dir()):
        return None
    if not data.is_dir():
        raise InvalidInput(
            f"--trust-data={data}: no such folder, expected the one that the benchmarks' original files lie in"
        )
    missing: list[str] = []
    for layout in adapter.layouts:
        paths = [locate(data, file) for file in layout.files]
        if all(paths):
            return layout, [path for path in paths if path]
        if any(paths) and not missing:
            missing = [file.name for file, path in zip(layout.files, paths, strict=True) if path is None]
    if missing:
        raise NotFound(
            f"{adapter.name}: {', '.join(missing)} missing beside the other files in {data}: {_get(adapter)}"
        )
    return None


def locate(data: Path, file: File) -> Path | None:
    for folder in file.folders:
        for name in (file.name, f"{file.name}.gz"):
            path = data / folder / name
            if path.is_file():
                return path
    return None


def how_to_get(adapter: Adapter, data: Path | None) -> str:
    """One line that says where the rows were looked for, and where to get them."""
    looked = (
        "no --trust-data=DIR was given" if data is None else "not on the Hub" if data.name == HUB else f"not in {data}"
    )
    return f"{adapter.name}: {looked}: {_get(adapter)}"


def _get(adapter: Adapter) -> str:
    files = adapter.layouts[0].files if adapter.layouts else ()
    names = dict.fromkeys(f"{file.folders[0]}/{file.name}" for file in files)
    put = f", and put it in the folder of --trust-data=DIR as {', '.join(names)}" if names else ""
    return f"get it from {adapter.home} ({adapter.licence}){put}"


_unreachable: list[str] = []
"""Why the Hub could not be reached. It is asked once per process, since some thirty datasets would wait each."""


def hub_tables(adapter: Adapter, hub: Hub, data: Path | None) -> list[list[Row]]:
    """The splits or files of a Hub dataset as tables.

    Raises NotFound when `datasets` is missing or the Hub cannot be reached.
    """
    try:
        import datasets
    except ImportError:
        raise NotFound(f"{how_to_get(adapter, data)}; or install datasets, to load it from the Hub") from None

    def failed(reason: str) -> NotFound:
        return NotFound(f"{how_to_get(adapter, data)}; from the Hub {hub.source}: {reason}")

    if _unreachable:
        raise failed(_unreachable[0])
    tables = []
    for name, arguments, keywords in _parts(hub):
        try:
            loaded: Any = datasets.load_dataset(*arguments, **keywords)
        except Exception as error:  # whatever datasets raises: offline, gated, gone
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"
            if isinstance(error, ConnectionError):
                _unreachable.append(reason)
            raise failed(reason) from None
        rows = [Row(f"{hub.source} {name}", number, values) for number, values in enumerate(loaded, 1)]
        for row in rows:
            check_fields(row)
        tables.append(rows)
    return tables


def _parts(hub: Hub) -> Iterator[tuple[str, tuple[str | None, ...], dict[str, Any]]]:
    """For each table a name, and the positional and keyword arguments of `datasets.load_dataset`."""
    for place, split in enumerate(hub.splits):
        config = hub.configs[place] if hub.configs else hub.config
        yield f"{config or ''} {split}".strip(), (hub.path, config), {"split": split, "revision": hub.revision}
    for file in hub.files:
        # `hub.path` may be the folder of a downloaded repository
        root = hub.path if Path(hub.path).is_dir() else f"hf://datasets/{hub.path}@{hub.revision or 'main'}"
        kind = Path(file).suffix.removeprefix(".")
        rest = {"delimiter": "\t", "quoting": 3} if kind == "tsv" else {}
        yield (
            file,
            ({"jsonl": "json", "tsv": "csv"}.get(kind, kind),),
            {"data_files": f"{root}/{file}", "split": "train", **rest},
        )
