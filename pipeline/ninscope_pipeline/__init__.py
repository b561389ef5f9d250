"""Stages, storage, caching, scheduling and the command line: everything around the science that knows about files."""
