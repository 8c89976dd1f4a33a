"""Sections that a report adds for sweeps of some kind: a package each, found by being in this folder.

A study is `studies/NAME/__init__.py` with `section(comparison, artifacts) -> Section | None`, and a template.
"""
