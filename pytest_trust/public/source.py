"""Where a benchmark's rows come from: a folder of its original files, or the Hub at a pinned revision; counted, hashed, and refused
when they are not the rows that the adapter was checked with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_trust.errors import InvalidInput
from pytest_trust.public.adapter import Adapter, Checked, Hub, Layout, NotFound, Record
from pytest_trust.public.rows import File, Row, check_fields, read_rows


@dataclass(frozen=True, slots=True)
class Found:
    """Records with their source in words, their hash, and what a report has to say about them."""

    records: tuple[Record, ...]
    source: str
    sha256: str
    notes: tuple[str, ...]


def row_hash(records: Sequence[Record]) -> str:
    """SHA-256 of the records as JSON lines with sorted keys, in sorted order: the same from a file and from the Hub, in whatever order."""
    lines = sorted(json.dumps(record, sort_keys=True, ensure_ascii=False, separators=(",", ":")) for record in records)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def find_records(adapter: Adapter, *, data: Path | None = None, accept_data_change: bool = False) -> Found:
    """All records of a benchmark. Raises NotFound when no source has them, InvalidInput when one has them broken or changed."""
    if adapter.generate is not None:
        return accept(adapter, adapter.generate(), "made by the adapter", None, False)
    found = find_files(adapter, data)
    if found is not None:
        layout, paths = found
        tables = [read_rows(path, file) for path, file in zip(paths, layout.files, strict=True)]
        source = ", ".join(dict.fromkeys(path.name for path in paths))
        return accept(adapter, layout.read(tables), source, layout.checked, accept_data_change)
    if adapter.hub is None:
        raise NotFound(how_to_get(adapter, data))
    hub = adapter.hub
    return accept(
        adapter,
        hub.read(hub_tables(adapter, hub, data)),
        f"{hub.path}@{hub.revision[:12]}",
        hub.checked,
        accept_data_change,
    )


def accept(
    adapter: Adapter, records: Sequence[Record], source: str, checked: Checked | None, accept_data_change: bool
) -> Found:
    """Refuse records that are not those checked, unless the user takes them; then the notes say so."""
    if not records:
        raise InvalidInput(f"{adapter.name}: {source} gives no rows, expected some")
    digest = row_hash(records)
    notes: tuple[str, ...] = ()
    if checked is None and adapter.generate is None:
        notes = (
            f"{adapter.name}: {len(records)} rows of {source} with hash {digest[:12]}; the adapter was not checked with real rows",
        )
    elif checked is not None and (len(records), digest) != (checked.rows, checked.sha256):
        words = (
            f"{source} gives {len(records)} rows with hash {digest[:12]}, and the suite was checked with {checked.rows} rows with hash "
            f"{checked.sha256[:12]}"
        )
        if not accept_data_change:
            raise InvalidInput(
                f"{adapter.name}: {words}: get that version, or take these rows with --trust-accept-data-change"
            )
        notes = (f"{adapter.name}: data change accepted: {words}",)
    return Found(tuple(records), source, digest, notes)


def find_files(adapter: Adapter, data: Path | None) -> tuple[Layout, list[Path]] | None:
    """The first layout with all of its files in the folder; None when there is none of any. Raises NotFound when some of them are missing."""
    if data is None:
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
    """One line: that there are no rows, where they were looked for, and where they can be had."""
    looked = "no --trust-data=DIR was given" if data is None else f"not in {data}"
    return f"{adapter.name}: {looked}: {_get(adapter)}"


def _get(adapter: Adapter) -> str:
    files = adapter.layouts[0].files if adapter.layouts else ()
    names = dict.fromkeys(f"{file.folders[0]}/{file.name}" for file in files)
    put = f", and put it in the folder of --trust-data=DIR as {', '.join(names)}" if names else ""
    return f"get it from {adapter.home} ({adapter.licence}){put}"


def hub_tables(adapter: Adapter, hub: Hub, data: Path | None) -> list[list[Row]]:
    """The splits of a Hub dataset as tables. Raises NotFound when `datasets` is missing or the Hub cannot be reached."""
    try:
        import datasets
    except ImportError:
        raise NotFound(f"{how_to_get(adapter, data)}; or install datasets, to load it from the Hub") from None
    tables = []
    for split in hub.splits:
        try:
            loaded: Any = datasets.load_dataset(hub.path, hub.config, split=split, revision=hub.revision)
        except Exception as error:  # whatever datasets raises: offline, gated, gone
            reason = " ".join(str(error).split())[:160]
            raise NotFound(
                f"{how_to_get(adapter, data)}; from the Hub {hub.path}@{hub.revision[:12]}: {type(error).__name__}: {reason}"
            ) from None
        rows = [
            Row(f"{hub.path}@{hub.revision[:12]} {split}", number, values) for number, values in enumerate(loaded, 1)
        ]
        for row in rows:
            check_fields(row)
        tables.append(rows)
    return tables
