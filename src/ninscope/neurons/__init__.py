"""What single neurons do: monosemanticity, fine-tuning that inhibits it, activations. Nothing else needs torch."""
