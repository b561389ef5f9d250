"""Where weights come from: local folders and the Hub, read lazily and never trusted."""
