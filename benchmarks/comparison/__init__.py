"""ninscope beside other tools on the suite that ships: `make comparison` measures, and writes docs/compare-tools.md.

    environments.py  a virtual environment for each tool, from requirements/, and its size
    readers/         what runs in those environments, one file a tool; they know nothing of this package
    processes.py     CPU, wall time and peak memory of a command in a process of its own
    measuring.py     the costs and the measures of every tool, kept in runs/comparison/ until something that they hang on changes
    correlating.py   which measure goes with the held-out loss after the step is taken out
    page.py          the page's tables, and its figure

docs/comparison/ holds what was measured; the page's tables and docs/comparison/correlations.csv are made from it alone.
"""
