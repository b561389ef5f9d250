"""Fine-tune a checkpoint on a task, with MEmeL or without, in steps that can be interrupted and end in the same weights."""
