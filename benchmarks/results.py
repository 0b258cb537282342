"""The results file: a JSON list, an entry for each part and case, written as soon as it is measured."""

import datetime
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.options import Options
from regrnn._version import __version__
from regrnn.errors import RegrnnError
from regrnn.kernels.core import choose
from regrnn.training.result import commit, processor

FORMAT = 1
RESULTS = Path(__file__).with_name("results") / "performance.json"

Entry = dict[str, Any]


def entry(
    part: str,
    case: str,
    options: Options,
    settings: Mapping[str, object],
    measurements: Sequence[Mapping[str, Any]],
    notes: Sequence[str] = (),
) -> Entry:
    """What was measured, with all that is needed to trust it and to do it again."""
    return {
        "format": FORMAT,
        "part": part,
        "case": case,
        "quick": options.quick,
        "settings": dict(settings),
        "measurements": list(measurements),
        "notes": list(notes),
        "threads": options.threads,
        "command": command(part, options),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.release()}",
            "load": [round(load, 2) for load in os.getloadavg()],
        },
        "versions": {
            "regrnn": __version__,
            "core": choose().reason,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def command(part: str, options: Options) -> str:
    """What measures this part again, in the same way."""
    words = ["python -m benchmarks", part, f"--threads {options.threads}"]
    if options.sizes:
        words.append(f"--sizes {','.join(options.sizes)}")
    if options.repeats:
        words.append(f"--repeats {options.repeats}")
    words += [f"--{name}" for name in ("quick", "full") if getattr(options, name)]
    return " ".join(words)


def read(path: Path) -> list[Entry]:
    """The entries of a results file; none where there is no file. Raises RegrnnError: it is none of ours."""
    if not path.exists():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        known = all(found["format"] == FORMAT and found["part"] and found["case"] for found in entries)
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise RegrnnError(f"{path}: not a results file of this version of the benchmarks; name another with --out")
    return list(entries)


def merge(entries: Sequence[Entry], new: Entry) -> list[Entry]:
    """`entries` with `new` in the place of what was measured of the same part and case, or at the end."""
    key = (new["part"], new["case"])
    out = [new if (old["part"], old["case"]) == key else old for old in entries]
    return out if new in out else [*out, new]


def save(path: Path, new: Entry) -> None:
    """Add `new` to the file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(merge(read(path), new), indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
