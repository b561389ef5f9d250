"""ninscope's measures of a run of dags/controls.toml: `python with_ninscope.py DATA RUN` prints a JSON line a checkpoint.

DATA is the folder with collect_controls_study.py, which says how tables become one row a checkpoint.
"""

import json
import math
import sys

# What the row holds beside measures, and what is alpha0 or w once more, over or under that of step 0.
OTHERS = (
    "step", "loss", "structure_low", "structure_high", "alpha0_shuffled", "width_shuffled", "alpha0_ratio", "width_ratio",
)  # fmt: skip


def main() -> None:
    data, run = sys.argv[1:]
    sys.path.insert(0, data)
    from collect_controls_study import of_demo

    for row in of_demo(run).to_dict("records"):
        values = {name: value if math.isfinite(value) else None for name, value in row.items() if name not in OTHERS}
        print(json.dumps({"step": int(row["step"]), **values}))


if __name__ == "__main__":
    main()
