"""Words of messages."""


def counted(num: int, what: str) -> str:
    """Returns a number of things, such as 1 seed and 3 seeds."""
    return f"{num:,} {what}{'s' * (num != 1)}"
