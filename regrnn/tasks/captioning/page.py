"""Pictures with captions on a page that needs no other file."""

import base64
import html
import io
import os
from collections.abc import Sequence
from pathlib import Path

from regrnn.errors import RegrnnError
from regrnn.tasks.captioning.images import open_image
from regrnn.tasks.captioning.trained import Caption

LARGEST = 480
"""Pixels of a picture's longer side on the page."""


def write_page(path: Path, captioned: Sequence[tuple[Path, Sequence[Caption]]]) -> None:
    """Write the page in one step; RegrnnError when it cannot be written."""
    figures = "\n".join(_figure(image, captions) for image, captions in captioned)
    page = f"""\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Captions</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 2rem auto; padding: 0 1rem; max-width: 72rem; font: 1rem/1.45 system-ui, sans-serif; }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1.5rem; }}
figure {{ margin: 0; break-inside: avoid; }} img {{ width: 100%; height: auto; border-radius: .4rem; }}
ol {{ margin: .4rem 0; padding-left: 1.3rem; }} .soft {{ opacity: .7; font-size: .85rem; overflow-wrap: anywhere; }}
</style></head>
<body><h1>Captions</h1>
<p class="soft">Behind each caption its score: the natural logarithm of its probability, divided by a power of its
length where the recipe says so.</p>
<main>
{figures}
</main></body></html>
"""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise RegrnnError(f"{path}: cannot be written ({error.strerror})") from None


def _figure(path: Path, captions: Sequence[Caption]) -> str:
    image = open_image(path)
    image.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    picture = base64.b64encode(buffer.getvalue()).decode("ascii")
    best = html.escape(captions[0].text) if captions else ""
    items = "".join(f'<li>{html.escape(one.text)} <span class="soft">{one.score:.2f}</span></li>' for one in captions)
    name = html.escape(str(path).encode("utf-8", "replace").decode("utf-8"))
    return (
        f'<figure><img src="data:image/jpeg;base64,{picture}" width="{image.width}" height="{image.height}" '
        f'alt="{best}"><figcaption><ol>{items}</ol><span class="soft">{name}</span></figcaption></figure>'
    )
