"""Errors about data on disk."""


class DataError(Exception):
    """Data on disk is damaged or incomplete."""


class NoSuchSplit(ValueError):
    """A data set has no part of that name."""
