"""Labelled images: folders of them, and scikit-learn's digits. Needs no torch."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ninscope.errors import RequestError
from ninscope.neurons.tasks.files import decoder_message

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
HELD_OUT_FOLDERS = ("held_out", "val", "validation")
MAX_PIXELS = 50_000_000
COLOURS = {1: "L", 3: "RGB"}
# Others have more than eight bits a channel, of which PIL would keep the lowest.
EIGHT_BIT = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV", "LAB"}
HELD_OUT_ONE_IN, DIGIT_LEVELS = 5, 16


@dataclass(frozen=True)
class LabelledFiles:
    """Image files and their class numbers, sorted by class and name."""

    classes: tuple[str, ...]
    train: tuple[tuple[Path, int], ...]
    held_out: tuple[tuple[Path, int], ...]


def split_folders(root: Path) -> tuple[Path, Path]:
    """The folders of training and of held-out images. Raises RequestError: not exactly one of each is there."""
    held_out = [root / name for name in HELD_OUT_FOLDERS if (root / name).is_dir()]
    if not (root / "train").is_dir() or len(held_out) != 1:
        raise RequestError(
            f"{root} must have the folders train and one of {', '.join(HELD_OUT_FOLDERS)}, both with a folder per class"
        )
    return root / "train", held_out[0]


def labelled_files(root: Path) -> LabelledFiles:
    """Images in <root>/train/<class>/ and <root>/held_out/<class>/ (or val, or validation); classes are the training folders.

    Raises RequestError: a folder is not there, has no images, or is of a class that training lacks.
    """
    folder, held_out = split_folders(root)
    classes = tuple(folder.name for folder in _folders(folder))
    if len(classes) < 2:
        raise RequestError(f"{folder} has {len(classes)} folders of classes; two or more are needed")
    for other in _folders(held_out):
        if other.name not in classes:
            raise RequestError(
                f"{other}: training has no class {other.name!r}; add images of it to train, or take it out"
            )
    train, held_out_images = (_images(split, classes) for split in (folder, held_out))
    if len({number for _, number in train}) < len(classes):
        empty = sorted(set(range(len(classes))) - {number for _, number in train})
        raise RequestError(f"{folder / classes[empty[0]]} has no images; add some ({', '.join(SUFFIXES)})")
    if not held_out_images:
        raise RequestError(f"{held_out} has no images; add some ({', '.join(SUFFIXES)})")
    return LabelledFiles(classes, train, held_out_images)


def class_folders(root: Path) -> LabelledFiles:
    """Images in <root>/<class>/, without a split: all are in `train`.

    Raises RequestError: fewer than two folders of classes, or one without images.
    """
    classes = tuple(folder.name for folder in _folders(root))
    if len(classes) < 2:
        raise RequestError(f"{root} has {len(classes)} folders of classes; two or more are needed")
    images = _images(root, classes)
    for number, name in enumerate(classes):
        if all(label != number for _, label in images):
            raise RequestError(f"{root / name} has no images; add some ({', '.join(SUFFIXES)})")
    return LabelledFiles(classes, images, ())


def _folders(folder: Path) -> list[Path]:
    return sorted((path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")), key=_name)


def _images(split: Path, classes: Sequence[str]) -> tuple[tuple[Path, int], ...]:
    labelled: list[tuple[Path, int]] = []
    for number, name in enumerate(classes):
        paths = (split / name).iterdir() if (split / name).is_dir() else ()
        images = (path for path in paths if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
        labelled += [(path, number) for path in sorted(images, key=_name)]
    return tuple(labelled)


def _name(path: Path) -> str:
    return path.name


def checked_channels(channels: int) -> int:
    if channels not in COLOURS:
        raise RequestError(
            f"the base takes images of {channels} channels; 1 (grey) or 3 (red, green, blue) can be read"
        )
    return channels


def read_image(path: Path, size: tuple[int, int], channels: int) -> np.ndarray:
    """Pixels, uint8 [channels, height, width], the whole image scaled to `size` (height, width), bilinear.

    Raises RequestError: no image that can be read, more than MAX_PIXELS of them, or more than eight bits a channel.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit here is lower
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise RequestError(
                        f"{path} has {image.width} x {image.height} pixels; make it {MAX_PIXELS} or fewer"
                    )
                if image.mode not in EIGHT_BIT:
                    raise RequestError(f"{path} has pixels of kind {image.mode}; save it with eight bits a channel")
                return _scaled(image.convert(COLOURS[channels]), size)
    except RequestError:
        raise
    except Exception as error:  # a decoder raises all kinds of errors at files, IndexError and struct.error among them
        raise RequestError(
            f"{path} cannot be read as an image ({decoder_message(error)}); save it again or take it out"
        ) from None


def _scaled(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, np.uint8)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


# --- digits -------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Digits:
    """scikit-learn's handwritten digits. pixels: uint8 [n, 8, 8] from 0 to 16. labels: int64 [n]. held_out: bool [n]."""

    pixels: np.ndarray
    labels: np.ndarray
    held_out: np.ndarray


def read_digits() -> Digits:
    """All 1797 in the library's order; an image is held out where five divides the SHA-256 of its bytes.

    The split depends on an image's pixels alone, so copies of an image are on the same side; data/digits-ddpm has the same split.
    Raises RequestError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise RequestError("digits need scikit-learn, which is not installed: pip install scikit-learn") from None
    digits = load_digits()
    pixels = digits.images.astype(np.uint8)
    sums = [int.from_bytes(hashlib.sha256(image.tobytes()).digest(), "big") for image in pixels]
    return Digits(pixels, digits.target.astype(np.int64), np.array([number % HELD_OUT_ONE_IN == 0 for number in sums]))


def scaled_digit(pixels: np.ndarray, size: tuple[int, int], channels: int) -> np.ndarray:
    """One digit, uint8 [8, 8] from 0 to 16, as float32 [channels, height, width] from 0 to 1.

    Whole multiples of its size repeat pixels, others are bilinear.
    """
    rows, columns = (whole // side for whole, side in zip(size, pixels.shape, strict=True))
    if (rows * pixels.shape[0], columns * pixels.shape[1]) == tuple(size):
        large = np.kron(pixels.astype(np.float32), np.ones((rows, columns), np.float32))
    else:
        image = Image.fromarray(pixels.astype(np.float32))
        large = np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR), np.float32)
    return np.repeat(large[None] / DIGIT_LEVELS, channels, axis=0)
