"""`python -m mutation`: draw a sample of mutants, judge each, print the figures."""

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from mutation.judging import Judged, Judges
from mutation.mutants import sample_of
from mutation.report import comparison, line_of, summary, write
from mutation.targets import files_of
from mutation.workers import Worker

CHECKOUT = Path(__file__).resolve().parents[2]


def main() -> int:
    asked = _arguments()
    sample, drawn_from = sample_of(asked.sources, asked.sample, asked.seed)
    if asked.only:
        sample = [mutant for mutant in sample if asked.only in mutant.name]
    if asked.list:
        print("\n".join(mutant.name for mutant in sample))
        return 0
    began = time.monotonic()
    results: list[Judged] = []
    with tempfile.TemporaryDirectory(prefix="ninscope-mutants-") as folder, ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(asked.sources, asked.tests, Path(folder) / str(number), asked.python))
            for number in range(asked.workers)
        ]
        judges = Judges(workers, list(files_of(asked.sources)))
        for name in judges.unfit():
            print(f"does not pass unmutated, and judges nothing: {name}", flush=True)
        print(f"{len(judges.tests)} tests ran unmutated in {time.monotonic() - began:.0f} s", flush=True)
        for judged in judges.judge(sample):
            results.append(judged)
            print(line_of(judged), flush=True)
            if asked.json:
                write(results, asked.json)
    print(summary(results, drawn_from, asked.seed))
    if asked.against:
        print(comparison(results, asked.against))
    killed, competent = sum(judged.killed for judged in results), sum(judged.outcome != "failed" for judged in results)
    return int(100 * killed < asked.least * competent)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m mutation", description=__doc__)
    parser.add_argument("--sample", type=int, default=300, help="number of mutants (default: 300)")
    parser.add_argument("--seed", type=int, default=0, help="draws another sample (default: 0)")
    parser.add_argument("--workers", type=int, default=2, help="mutants judged side by side (default: 2)")
    parser.add_argument("--sources", type=Path, default=CHECKOUT, help="the checkout to mutate (default: this one)")
    parser.add_argument("--tests", type=Path, help="the checkout whose tests judge (default: that of the sources)")
    parser.add_argument(
        "--python", default=sys.executable, help="the interpreter that runs the tests (default: this one)"
    )
    parser.add_argument("--only", default="", help="judge only mutants of the sample whose name holds this text")
    parser.add_argument(
        "--least", type=float, default=0.0, help="fail below this percentage of killed mutants (default: 0)"
    )
    parser.add_argument("--json", type=Path, help="write every result to this file")
    parser.add_argument("--against", type=Path, help="compare with an earlier run's --json file")
    parser.add_argument("--list", action="store_true", help="print the sample and end")
    asked = parser.parse_args()
    asked.tests = asked.tests or asked.sources
    return asked


if __name__ == "__main__":
    sys.exit(main())
