"""What stages that run a checkpoint's model share: their sections, how they are planned and keyed, and how the work is done."""
