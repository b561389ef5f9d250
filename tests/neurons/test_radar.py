"""Radar frames on disk: folders as HKO-7 lays them out, with gaps, masks, and files that are not as they should be."""

import subprocess
import sys
import zlib
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ninscope.errors import RequestError
from ninscope.neurons.tasks.forecast_settings import ForecastSettings

HEIGHT, WIDTH = 6, 8
SIZE = {"height": HEIGHT, "width": WIDTH, "input_frames": 2, "output_frames": 1}
START = datetime(2011, 5, 1, 23, 42)


def pixels_of(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (height, width), dtype=np.uint8)


def place_of(root: Path, time: datetime, tail: str = "", kind: str = "radarPNG", ending: str = "png") -> Path:
    day = f"{time.year:04}/{time.month:02}/{time.day:02}"
    stem = f"{time.year:04}{time.month:02}{time.day:02}{time.hour:02}{time.minute:02}{time.second:02}"
    name = f"RAD{stem}{tail}.{ending}" if kind else f"{stem}.{ending}"
    path = root / kind / day / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write_frame(root: Path, number: int, kind: str = "radarPNG", tail: str = "", size=(HEIGHT, WIDTH)) -> Path:
    """Frame `number`, six minutes after the one before; its pixels are known from the number."""
    path = place_of(root, START + number * timedelta(minutes=6), tail, kind)
    Image.fromarray(pixels_of(number, *size)).save(path)
    return path


def settings(root: Path, **changes) -> ForecastSettings:
    """Frames 0 to 2 are on the first of May and are trained on; 3 and those after them are held out."""
    days = {"train": ("2011-05-01", "2011-05-01"), "held_out": ("2011-05-02", "2011-05-09")}
    return ForecastSettings(**SIZE | {"dataset": "hko7", "root": root, "stride": 1} | days | changes)


def numbers_in(of: ForecastSettings, split: str) -> list[list[int]]:
    """Which frames each sequence is made of, told by their pixels."""
    known = {pixels_of(number).tobytes(): number for number in range(40)}
    sequences = of.sequences(split)
    return [[known[frame.tobytes()] for frame in sequences.frames(number)] for number in range(sequences.count)]


@pytest.fixture
def root(tmp_path) -> Path:
    for number in range(9):
        write_frame(tmp_path, number)
    return tmp_path


# --- sequences ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("kind", "tail"), [("radarPNG", ""), ("radarPNG", "_CAPPI2"), ("", "")])
def test_both_layouts_are_read_in_the_order_of_time(tmp_path, kind, tail):
    for number in (4, 0, 5, 3, 1, 2):
        write_frame(tmp_path, number, kind, tail)
    (tmp_path / kind / "2011/05/01/Thumbs.db").write_bytes(b"no frame")
    found = settings(tmp_path)
    assert numbers_in(found, "train") == [[0, 1, 2]]  # none reaches into the next day, which is held out
    assert numbers_in(found, "held_out") == [[3, 4, 5]]


def test_a_gap_ends_a_sequence(root):
    for number in (15, 16, 17, 18):
        write_frame(root, number)
    place_of(root, START + timedelta(minutes=6 * 5)).unlink()
    assert numbers_in(settings(root), "held_out") == [[6, 7, 8], [15, 16, 17], [16, 17, 18]]


def test_frames_between_two_minutes_break_it_too(root):
    Image.fromarray(pixels_of(30)).save(place_of(root, START + timedelta(minutes=6 * 5 + 3)))
    assert numbers_in(settings(root), "held_out") == [[3, 4, 5], [6, 7, 8]]


@pytest.mark.parametrize(
    ("stride", "expected"), [(1, [[3, 4, 5], [4, 5, 6], [5, 6, 7], [6, 7, 8]]), (3, [[3, 4, 5], [6, 7, 8]])]
)
def test_the_stride_is_between_beginnings(root, stride, expected):
    assert numbers_in(settings(root, stride=stride), "held_out") == expected


def test_no_frames_and_no_sequences(root):
    with pytest.raises(RequestError, match="no frames from 2012-01-01 to 2012-01-02"):
        settings(root, held_out=("2012-01-01", "2012-01-02")).sequences("held_out")
    with pytest.raises(
        RequestError, match=r"no 4 frames 6 minutes apart .* to 2011-05-01 \(train\); choose other days"
    ):
        settings(root, output_frames=2).sequences("train")
    with pytest.raises(RequestError, match="nowhere: no such folder; name one that holds radarPNG"):
        settings(root / "nowhere").sequences("train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": None}, "train is None; its first and last day, YYYY-MM-DD"),
        ({"train": ("2011-05-01",)}, "train is .* first and last day"),
        ({"train": ("20110501", "20110501")}, "train is .* first and last day"),
        ({"train": ("2011-05-01", "2011-04-30")}, "train is .* first and last day"),
        ({"held_out": ("2011-02-30", "2011-03-01")}, "held_out is .* first and last day"),
        ({"held_out": ("2011-05-01", "2011-05-09")}, "train .* and held_out .* overlap; choose other days"),
    ],
)
def test_days_that_make_no_sense(root, change, message):
    with pytest.raises(RequestError, match=message):
        settings(root, **change)


# --- files --------------------------------------------------------------------------------------------------
def test_names_that_tell_no_time(root):
    path = root / "radarPNG/2011/05/01/RAD20110501.png"
    path.write_bytes(b"")
    with pytest.raises(RequestError, match=r"2011/05/01/RAD20110501.png: is not named by a time"):
        settings(root).sequences("train")
    path.rename(path.with_name("RAD20110501256000.png"))
    with pytest.raises(RequestError, match=r"RAD20110501256000.png: is not named by a time"):
        settings(root).sequences("train")
    path.with_name("RAD20110501256000.png").rename(path.with_name("RAD20110502000000.png"))
    with pytest.raises(RequestError, match=r"RAD20110502000000.png: lies in the folder of another day"):
        settings(root).sequences("train")


def test_two_frames_of_one_time(root):
    write_frame(root, 0, tail="_again")
    with pytest.raises(RequestError, match=r"has the same time as RAD20110501234200.png; remove one"):
        settings(root).sequences("train")


def test_a_folder_that_cannot_be_read(root, monkeypatch):
    """Whoever runs the tests may be allowed to read everything, so the refusal is the file system's only by pretence."""
    plain = Path.iterdir

    def refused(path):
        if path.name == "05":
            raise PermissionError(13, "Permission denied")
        return plain(path)

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(RequestError, match=r"a folder in it cannot be read \(Permission denied\)"):
        settings(root).sequences("train")


def test_a_folder_that_is_no_day(root):
    (root / "radarPNG/2011/13/01").mkdir(parents=True)
    with pytest.raises(RequestError, match="2011/13/01: is no day"):
        settings(root).sequences("train")


def first_of(root: Path, **changes) -> np.ndarray:
    return settings(root, **changes).sequences("train").frames(0)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n", b"half"])
def test_a_broken_frame_is_named(root, content):
    path = place_of(root, START)
    path.write_bytes(path.read_bytes()[:60] if content == b"half" else content)
    with pytest.raises(RequestError, match=r"radarPNG/2011/05/01/RAD20110501234200.png: cannot be read as a PNG file"):
        first_of(root)


def test_a_frame_whose_pixels_are_damaged(root):
    path = place_of(root, START)
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"IDAT") + 8] ^= 0xFF
    path.write_bytes(raw)
    with pytest.raises(RequestError, match=r"RAD20110501234200.png: cannot be read as a PNG file"):
        first_of(root)


@pytest.mark.parametrize("mode", ["RGB", "P", "I;16", "1", "LA"])
def test_a_frame_of_colours_or_of_16_bits(root, mode):
    Image.new(mode, (WIDTH, HEIGHT)).save(place_of(root, START))
    with pytest.raises(RequestError, match=f"is no 8-bit grey PNG .its mode is {mode}.; convert it"):
        first_of(root)


def test_another_format_under_the_same_name(root):
    Image.new("L", (WIDTH, HEIGHT)).save(place_of(root, START), format="BMP")
    with pytest.raises(RequestError, match="cannot be read as a PNG file"):
        first_of(root)


def test_a_frame_of_another_size(root):
    write_frame(root, 1, size=(HEIGHT, WIDTH + 1))
    with pytest.raises(RequestError, match=r"RAD20110501234800.png: is 6 x 9 pixels, not 6 x 8; set the size, or crop"):
        first_of(root)


def test_a_frame_too_small_to_crop(root):
    write_frame(root, 1, size=(HEIGHT - 1, WIDTH))
    with pytest.raises(RequestError, match="is 5 x 8 pixels, from which 6 x 8 cannot be cropped"):
        first_of(root, crop=True)


def test_a_frame_made_to_be_large_is_not_unpacked(root):
    """Its header states 30,000 x 30,000 pixels, of which there are none."""
    path = place_of(root, START)
    raw = bytearray(path.read_bytes())
    raw[16:24] = (30_000).to_bytes(4, "big") * 2
    raw[29:33] = zlib.crc32(raw[12:29]).to_bytes(4, "big")
    path.write_bytes(raw)
    with pytest.raises(RequestError, match=r"RAD20110501234200.png: (cannot be read|is 30000 x 30000 pixels)"):
        first_of(root, crop=True)


def test_cropping_takes_the_middle(tmp_path):
    for number in range(6):
        write_frame(tmp_path, number, size=(HEIGHT + 3, WIDTH + 4))
    found = first_of(tmp_path, crop=True)
    for number in range(3):
        np.testing.assert_array_equal(found[number], pixels_of(number, 9, 12)[1:7, 2:10])


# --- masks --------------------------------------------------------------------------------------------------
def write_mask(root: Path, number: int, used: np.ndarray) -> Path:
    path = place_of(root, START + number * timedelta(minutes=6), kind="radarPNG_mask", ending="mask")
    path.write_bytes(zlib.compress(used.astype(bool).tobytes(), 2))
    return path


@pytest.fixture
def masked(root) -> dict[int, np.ndarray]:
    masks = {number: pixels_of(100 + number) < 200 for number in range(9)}
    for number, used in masks.items():
        write_mask(root, number, used)
    return masks


def test_masks_are_left_alone_unless_asked_for(root, masked):
    assert settings(root).sequences("train").mask(0) is None


def test_masked_pixels_do_not_count(root, masked):
    """Scores and loss of a forecast of nothing, against the plain mean over the pixels that are used."""
    torch = pytest.importorskip("torch")
    from ninscope.neurons.tasks.forecasting import Forecasting

    masked_frames = settings(root, masks=True, weights_of="pixel")
    task = Forecasting("hko7", masked_frames.sequences("train"), masked_frames.sequences("held_out"), "pixel")
    batch = task.batch(np.array([0]))
    np.testing.assert_array_equal(batch["mask"][0, 0].numpy(), masked[2])
    total = count = 0
    for last in (5, 6, 7, 8):
        kept = pixels_of(last)[masked[last]].astype(int)
        count += kept.size
        total += sum(
            pixel * next(w for w, m in ((30, 30), (10, 10), (5, 5), (2, 2), (1, 0)) if pixel >= m) for pixel in kept
        )
    found = task.evaluate(forecast_of_nothing(), 3, torch.device("cpu"))
    assert found["b_mae"] == pytest.approx(total / count, rel=1e-12)
    before = float(task.loss(forecast_of_nothing(), batch))
    batch["targets"][0, 0][~batch["mask"][0, 0]] = 7
    assert float(task.loss(forecast_of_nothing(), batch)) == before


def forecast_of_nothing():
    import torch

    class Nothing(torch.nn.Module):
        def forward(self, frames):
            return torch.zeros(len(frames), 1, HEIGHT, WIDTH)

    return Nothing()


def test_a_mask_that_is_absent(root, masked):
    write_mask(root, 1, masked[1]).unlink()
    with pytest.raises(RequestError, match=r"RAD20110501234800.png: has no mask in radarPNG_mask/2011/05/01"):
        settings(root, masks=True).sequences("train")


@pytest.mark.parametrize(
    "content",
    [
        b"no zlib",
        zlib.compress(bytes(HEIGHT * WIDTH - 1)),
        zlib.compress(bytes(HEIGHT * WIDTH + 1)),
        zlib.compress(bytes(50_000_000)),
        zlib.compress(bytes([2]) * (HEIGHT * WIDTH)),
        zlib.compress(bytes(HEIGHT * WIDTH))[:-5],
    ],
)
def test_a_mask_that_is_broken(root, masked, content):
    write_mask(root, 2, masked[2]).write_bytes(content)
    with pytest.raises(
        RequestError, match=r"radarPNG_mask/RAD20110501235400.mask: (cannot be read|holds no 6 x 8 bytes)"
    ):
        settings(root, masks=True).sequences("train").mask(0)


# --- digests ------------------------------------------------------------------------------------------------
def test_the_digest_depends_on_bytes_not_on_the_place(root, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere")
    for number in range(9):
        write_frame(other, number)
    assert settings(root).digest() == settings(other).digest()
    Image.fromarray(pixels_of(99)).save(place_of(other, START))
    assert settings(root).digest() != settings(other).digest()
    assert settings(root).digest() != settings(root, stride=2).digest()


def test_settings_and_frames_need_no_torch(root):
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from ninscope.neurons.tasks.forecast_settings import ForecastSettings\n"
        f"s = ForecastSettings(dataset='hko7', root={str(root)!r}, height=6, width=8, input_frames=2, output_frames=1,\n"
        "    train=('2011-05-01', '2011-05-01'), held_out=('2011-05-02', '2011-05-09'))\n"
        "print(s.sequences('train').frames(0).shape, s.digest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("(3, 6, 8) "), done.stderr
