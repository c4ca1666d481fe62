"""Cats and dogs drawn by ourselves, for whoever has no account and no network.

In reading order: pen, animal, drawing, dataset.
Only `data` and the tests come here.
"""
