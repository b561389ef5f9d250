"""Mutation testing: how many small faults, put into the sources one at a time, do the tests notice?

Cosmic-ray makes the faults (mutants). It has no seeded sample, edits sources in place and starts pytest once per mutant, which
costs more in imports than in tests, so these modules draw the sample and run it:

    targets.py      what is mutated, what is left out by rule, and which tests judge it
    mutants.py      every mutant of a checkout by a stable name, and a seeded sample of them
    checkouts.py    a copy of a checkout, so that no working tree is ever edited
    workers.py      such a copy, and its server
    server.py       one pytest session that has collected the tests, and forks a child for each mutant
    reach.py        which test reaches which line or compiled function
    transplant.py   puts the code of a mutant into modules that are already imported
    choosing.py     the tests that judge a mutant
    judging.py      gives mutants to the workers and takes their results
    equivalent.py   survivors that are the same program, each with the reason
    report.py       the figures, and the names of the survivors

Run with `make mutants`, or `PYTHONPATH=tests python -m mutation --help`. Only this side needs cosmic-ray; the servers may be
of another interpreter, as where another checkout's tests judge the same sample.
"""
