"""Any picture as 8-bit RGB, by stated rules.

Greyscale becomes three equal channels and CMYK is converted; what is transparent, in a palette or in a channel of its
own, shows white; 16-bit greyscale is scaled to 8 bits, and
floating-point greyscale too (white is 1, or 255 where a value is above 1); a photograph is turned as its EXIF says; of
an animation the first frame is taken. A picture of any size is accepted, a single pixel too: it is a plain colour.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from regrnn.errors import RegrnnError
from regrnn.optional import need


def open_image(path: Path) -> Any:
    """The picture in `path` as a PIL image of mode RGB (see the module for what becomes of other modes).

    Raises RegrnnError for a file that is missing, is no picture, is cut short, or claims an absurd size.
    """
    pil = need("PIL.Image", "pillow", "captioning")
    ops = need("PIL.ImageOps", "pillow", "captioning")
    if not path.is_file():
        raise RegrnnError(f"{path}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of metadata; what matters is whether the pixels can be read
            warnings.simplefilter("error", pil.DecompressionBombWarning)
            with pil.open(path) as image:
                image.load()
                return to_rgb(ops.exif_transpose(image))
    except (pil.DecompressionBombError, pil.DecompressionBombWarning):
        raise RegrnnError(f"{path}: claims to have too many pixels to be a photograph; scale it down first") from None
    except Exception as error:  # Pillow's readers raise whatever a damaged file leads them to
        raise RegrnnError(f"{path}: not a picture that can be read ({error}); replace it or leave it out") from None


def to_rgb(image: Any) -> Any:
    """A PIL image of any mode as RGB."""
    pil = need("PIL.Image", "pillow", "captioning")
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode[:1] in ("I", "F"):  # Pillow would clip them
        values = np.asarray(image, np.float64)
        most = 65535.0 if image.mode != "F" else 1.0 if values.max() <= 1.0 else 255.0
        values = np.clip(values / most, 0.0, 1.0)
        image = pil.fromarray(np.asarray(np.rint(255 * values), np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = pil.new("RGBA", image.size, (255, 255, 255, 255))
        return pil.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
