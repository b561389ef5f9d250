"""The controlled laboratory of polysemanticity: small networks whose features are known are made, trained, pruned and measured."""
