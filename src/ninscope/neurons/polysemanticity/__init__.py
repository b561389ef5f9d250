"""Polysemanticity under pruning: small networks whose features are known, trained, pruned and measured."""
