"""LoRA adapters: what one holds, and how it is merged into its base while rows are read."""
