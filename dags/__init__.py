"""Experiments that ship: one TOML file each, run by `ninscope run NAME`."""
