"""What goes wrong with data on disk, and with what is not installed."""


class DataError(Exception):
    """Data on disk is damaged or incomplete."""


class NoSuchSplit(ValueError):
    """A data set has no part of that name."""


class MissingError(ValueError):
    """What is asked for needs a package that is not installed."""
