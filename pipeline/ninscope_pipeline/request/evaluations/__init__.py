"""Losses and benchmark results that come with a model: what the key `evaluations` of a DAG file names (docs/benchmarks.md)."""

from ninscope_pipeline.request.evaluations.evaluation import Evaluation

__all__ = ["Evaluation"]
