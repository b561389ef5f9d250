"""How what a run makes lies in its folder, whole or not at all."""
