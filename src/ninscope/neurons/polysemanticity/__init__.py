"""Polysemanticity under pruning: small networks whose features are known."""
