"""Sequences of radar frames on disk, and the weights of their pixels. Needs no torch.

Folders are laid out as HKO-7 is (Shi et al., 2017): <root>/radarPNG/YYYY/MM/DD/RADYYYYMMDDHHMMSS.png, with anything between the
time and the ending after an underscore, or <root>/YYYY/MM/DD/YYYYMMDDHHMMSS.png; frames are 8-bit grey PNG files, one every six
minutes. Masks are HKO-7's: <root>/radarPNG_mask/YYYY/MM/DD/RADYYYYMMDDHHMMSS.mask, one byte (0: leave
this pixel out, 1: use it) a pixel of the whole frame, row by row, compressed by zlib.

Files may come from strangers: the size of a frame or mask is checked before it is unpacked.
"""

import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
from PIL import Image

from ninscope.errors import RequestError
from ninscope.neurons.tasks.files import decoder_message, file_digest

FRAMES_FOLDER, MASKS_FOLDER = "radarPNG", "radarPNG_mask"
INTERVAL = timedelta(minutes=6)
MAX_SIDE = 8_192
MAX_FILE_BYTES = 1 << 27
_FRAME_NAME = re.compile(r"(?:RAD)?(\d{14})(?:_.*)?\.png", re.ASCII)
_MASK_NAME = re.compile(r"(?:RAD)?(\d{14})(?:_.*)?\.mask", re.ASCII)
_DAY = (re.compile(r"\d{4}", re.ASCII), re.compile(r"\d{2}", re.ASCII), re.compile(r"\d{2}", re.ASCII))

# Weights of B-MAE and B-MSE (MEmeL, appendix F.2) and the values of m from which they hold.
WEIGHTS, WEIGHTS_FROM = (1, 2, 5, 10, 30), (2, 5, 10, 30)
WEIGHTS_OF = ("rain_rate", "pixel")
ZR_A, ZR_B = 58.53, 1.56  # HKO-7's: Z = a R^b


def rain_rate(pixels: np.ndarray) -> np.ndarray:
    """Rain in mm/h of pixels 0..255, float64: dBZ = 70 pixel / 255 - 10 = 10 log10(a) + 10 b log10(R) (Shi et al., 2017)."""
    decibels = np.asarray(pixels, dtype=np.float64) * 70 / 255 - 10
    return 10 ** ((decibels - 10 * np.log10(ZR_A)) / (10 * ZR_B))


def pixel_weights(weights_of: str) -> np.ndarray:
    """Weight of a pixel by its value 0..255, float32 [256].

    The MEmeL paper does not say whether m, which decides the weight, is a pixel or the rain that the pixel stands for. Shi et al.
    (2017), whose weights these are, take "rain_rate", in mm/h: the weights begin at pixels 118, 141, 158 and 185. With "pixel"
    they begin at 2, 5, 10 and 30, all less than 0.1 mm/h, so almost every echo, however weak, would weigh 30.
    """
    pixels = np.arange(256)
    measure = rain_rate(pixels) if weights_of == "rain_rate" else pixels.astype(np.float64)
    return np.array(WEIGHTS, dtype=np.float32)[np.searchsorted(WEIGHTS_FROM, measure, side="right")]


@dataclass(frozen=True)
class Frame:
    """A frame's time, its file and its name in messages; mask: its mask's file, if masks are used."""

    time: datetime
    path: Path
    name: str
    mask: Path | None = None


def list_frames(root: Path, first: str, last: str, masks: bool = False) -> list[Frame]:
    """Frames from day `first` to day `last` (YYYY-MM-DD, both included) by their time.

    Raises RequestError: no such folder, a PNG file that is not named by a time or lies in another day's folder, two frames of one
    time, a frame without its mask, or no frame at all.
    """
    base = root / FRAMES_FOLDER if (root / FRAMES_FOLDER).is_dir() else root
    if not base.is_dir():
        raise RequestError(f"{root}: no such folder; name one that holds {FRAMES_FOLDER}/YYYY/MM/DD or YYYY/MM/DD")
    try:
        frames = _frames_between(root, base, first, last, masks)
    except OSError as error:
        raise RequestError(f"{root}: a folder in it cannot be read ({error.strerror}); allow it to be") from None
    if not frames:
        raise RequestError(
            f"{root}: no frames from {first} to {last}; YYYY/MM/DD/*.png, named by their times, were expected"
        )
    return frames


def _frames_between(root: Path, base: Path, first: str, last: str, masks: bool) -> list[Frame]:
    frames = []
    for day in _days_with_folders(base, first, last):
        mask_files = _files_of_day(root / MASKS_FOLDER, day, _MASK_NAME) if masks else {}
        for time, path in sorted(_files_of_day(base, day, _FRAME_NAME).items()):
            name = path.relative_to(root).as_posix()
            if masks and time not in mask_files:
                raise RequestError(f"{name}: has no mask in {MASKS_FOLDER}/{_folder_of(day)}; add it, or use no masks")
            frames.append(Frame(time, path, name, mask_files.get(time)))
    return frames


def _days_with_folders(base: Path, first: str, last: str) -> list[date]:
    """Days of a range that have a folder, in order. It lists the folders, since a range may span centuries."""
    begin, end = date.fromisoformat(first), date.fromisoformat(last)
    days = []
    for year in _subfolders(base, _DAY[0]):
        for month in _subfolders(year, _DAY[1]) if begin.year <= int(year.name) <= end.year else ():
            for day in _subfolders(month, _DAY[2]):
                try:
                    days.append(date(int(year.name), int(month.name), int(day.name)))
                except ValueError:
                    where = day.relative_to(base).as_posix()
                    raise RequestError(f"{where}: is no day; folders of frames are called YYYY/MM/DD") from None
    return sorted(day for day in days if begin <= day <= end)


def _subfolders(folder: Path, named: re.Pattern[str]) -> list[Path]:
    return [path for path in folder.iterdir() if named.fullmatch(path.name) and path.is_dir()]


def _folder_of(day: date) -> str:
    return day.isoformat().replace("-", "/")


def _files_of_day(base: Path, day: date, named: re.Pattern[str]) -> dict[datetime, Path]:
    """Files in one day's folder by their times; files with another ending are ignored."""
    folder = base / _folder_of(day)
    files: dict[datetime, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix != named.pattern[named.pattern.rindex(".") :]:
            continue
        where = f"{_folder_of(day)}/{path.name}"
        if (time := _time_in(path.name, named)) is None:
            raise RequestError(
                f"{where}: is not named by a time, as RADYYYYMMDDHHMMSS{path.suffix} is; rename or remove it"
            )
        if time.date() != day:
            raise RequestError(f"{where}: lies in the folder of another day; move it")
        if time in files:
            raise RequestError(f"{where}: has the same time as {files[time].name}; remove one of them")
        files[time] = path
    return files


def _time_in(name: str, named: re.Pattern[str]) -> datetime | None:
    match = named.fullmatch(name)
    try:
        return datetime.strptime(match[1], "%Y%m%d%H%M%S") if match else None
    except ValueError:
        return None


def runs(frames: list[Frame], length: int, stride: int) -> list[int]:
    """Where sequences of `length` frames without a gap begin, with `stride` frames or more from one begin to the next."""
    starts: list[int] = []
    begin = 0
    for end in range(1, len(frames) + 1):
        if end < len(frames) and frames[end].time - frames[end - 1].time == INTERVAL:
            continue
        starts += range(begin, end - length + 1, stride)
        begin = end
    return starts


def read_frame(frame: Frame, height: int, width: int, crop: bool) -> np.ndarray:
    """A frame's pixels, uint8 [height, width]. crop: take the middle of a larger frame; else a frame must have this very size.

    Raises RequestError: not an 8-bit grey PNG, broken, of another size, or smaller than what is cropped from it.
    """
    with _opened(frame) as image:
        if image.mode != "L":
            raise RequestError(f"{frame.name}: is no 8-bit grey PNG (its mode is {image.mode}); convert it")
        _check_size(frame.name, image.height, image.width, height, width, crop)
        pixels = np.asarray(image)
    return _middle(pixels, height, width)


@contextmanager
def _opened(frame: Frame) -> Iterator[Image.Image]:
    """A frame's file before its pixels are unpacked. Raises RequestError, also for an error while they are unpacked."""
    try:
        with Image.open(frame.path, formats=("PNG",)) as image:
            yield image
    except RequestError:
        raise
    except Exception as error:  # a decoder raises all kinds of errors at files, IndexError and struct.error among them
        raise RequestError(
            f"{frame.name}: cannot be read as a PNG file ({decoder_message(error)}); fetch it again"
        ) from None


def read_mask(frame: Frame, height: int, width: int, crop: bool) -> np.ndarray:
    """Which pixels of a frame are used, bool [height, width]. Raises RequestError: no mask, a broken one, or one of another size
    than the frame."""
    if frame.mask is None:
        raise RequestError(f"{frame.name}: has no mask; add it, or use no masks")
    with _opened(frame) as image:
        shape = image.height, image.width
    _check_size(frame.name, *shape, height, width, crop)
    name, size = f"{MASKS_FOLDER}/{frame.mask.name}", shape[0] * shape[1]
    try:
        raw = _read_limited(frame.mask)
        unpacker = zlib.decompressobj()
        plain = unpacker.decompress(raw, size + 1)
    except (OSError, zlib.error) as error:
        raise RequestError(f"{name}: cannot be read as a mask ({error}); fetch it again") from None
    values = np.frombuffer(plain, np.uint8)
    if len(plain) != size or not unpacker.eof or values.max() > 1:
        raise RequestError(
            f"{name}: holds no {shape[0]} x {shape[1]} bytes of 0 and 1, the size of its frame; fetch it again"
        )
    return _middle(values.reshape(shape), height, width).astype(bool)


def _read_limited(path: Path) -> bytes:
    """A file's bytes. Raises OSError: it is too large for a frame or mask."""
    if path.stat().st_size > MAX_FILE_BYTES:
        raise OSError(f"{path.name} has more than {MAX_FILE_BYTES} bytes")
    return path.read_bytes()


def _check_size(name: str, frame_height: int, frame_width: int, height: int, width: int, crop: bool) -> None:
    size = f"{name}: is {frame_height} x {frame_width} pixels"
    if not crop and (frame_height, frame_width) != (height, width):
        raise RequestError(f"{size}, not {height} x {width}; set the size, or crop")
    if frame_height < height or frame_width < width:
        raise RequestError(f"{size}, from which {height} x {width} cannot be cropped; set a smaller size")
    if max(frame_height, frame_width) > MAX_SIDE:
        raise RequestError(f"{size}; at most {MAX_SIDE} a side are read")


def _middle(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]


def file_digests(frames: list[Frame]) -> Iterator[list[str]]:
    """[time, suffix, sha256 of the bytes] of every frame and mask. Raises RequestError: one cannot be read."""
    for frame in frames:
        for path in (frame.path, frame.mask):
            if path is not None:
                yield [frame.time.isoformat(), path.suffix, file_digest(path)]
