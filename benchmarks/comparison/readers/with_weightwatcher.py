"""weightwatcher of checkpoints: `python with_weightwatcher.py [--measures] FOLDER...` prints a JSON line a folder.

Folders are analysed as they are, without a model class. By default this is `analyze()` with its defaults, which is what is timed;
--measures adds the Marchenko-Pastur fit and means over layers of what the summary leaves out.
"""

import argparse
import contextlib
import io
import json
import logging

with contextlib.redirect_stdout(io.StringIO()):  # it says at import which linear algebra it takes
    import weightwatcher

MEANS = ("entropy", "num_spikes", "num_pl_spikes", "rank_loss", "xmin", "D")


def measures(folder: str, everything: bool) -> dict[str, float]:
    watcher = weightwatcher.WeightWatcher(model=folder)
    details = watcher.analyze(mp_fit=everything)
    values = {name: float(value) for name, value in watcher.get_summary(details).items()}
    if everything:
        values |= {name: float(details[name].mean()) for name in MEANS}
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description="weightwatcher of checkpoints.")
    parser.add_argument("--measures", action="store_true")
    parser.add_argument("folders", nargs="+")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    for folder in options.folders:
        with contextlib.redirect_stdout(io.StringIO()):
            values = measures(folder, options.measures)
        print(json.dumps(values))


if __name__ == "__main__":
    main()
