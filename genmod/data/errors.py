"""What goes wrong with data on disk."""


class DataError(Exception):
    """Data on disk is damaged or incomplete."""
