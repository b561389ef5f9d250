"""What a model is called where several suites are shown together."""

import pandas as pd


def model_names(rows: pd.DataFrame) -> dict[tuple[str, str], str]:
    """By suite and model what a reader calls it: the model, with its suite where two suites have one of that name."""
    pairs = [
        (str(suite), str(model)) for suite, model in rows[["suite", "model"]].drop_duplicates().itertuples(index=False)
    ]
    models = [model for _, model in pairs]
    return {(suite, model): f"{suite}/{model}" if models.count(model) > 1 else model for suite, model in pairs}
