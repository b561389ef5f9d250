"""Figures: tables in, matplotlib figures out."""

FORMATS = ("png", "svg", "pdf")  # of files that figures can be written to
