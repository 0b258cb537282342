"""``regrnn fetch``: put a data set where recipes find it by name."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import cyclopts


def fetch(
    name: str,
    *,
    from_: Annotated[Path | None, cyclopts.Parameter(name="--from")] = None,
    root: Path | None = None,
    json: bool = False,
) -> None:
    """Fetch a data set, with the checksum of every file.

    Files that are there already are kept, and a download that broke off goes on where it stopped.

    Parameters
    ----------
    name
        Data set: ptb (Penn Treebank, 6 MB), speech-ru (Debian's festvox-ru, 179 MB).
    from_
        Take the files from this folder or .zip, .tar or .deb archive; nothing is downloaded.
    root
        Folder that holds data sets. Default: $REGRNN_DATA, else the user's cache directory.
    json
        Print one JSON object.
    """
    import json as json_module

    from regrnn.data.fetch import DATASETS
    from regrnn.data.fetch import fetch as fetch_dataset
    from regrnn.data.locate import data_root

    target = data_root() if root is None else root
    fetched = fetch_dataset(name, root=target, source=from_)
    dataset = DATASETS[name]
    found_by_name = target == data_root()
    command = f"regrnn train {dataset.recipe} --data {name if found_by_name else shlex.quote(str(fetched.folder))}"
    if json:
        record = {
            "name": name,
            "folder": str(fetched.folder),
            "files": dict(fetched.files),
            "terms": dataset.terms,
            "next": command,
        }
        print(json_module.dumps(record))
        return
    print(f"{name}: {dataset.about}")
    for file, status in fetched.files.items():
        print(f"  {status:10}  {fetched.folder / file}")
    print(f"Terms: {dataset.terms}")
    print(f"Next:  {command}")
