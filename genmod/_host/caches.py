"""Where genmod keeps what it can make again: compiled programs, decoded data."""

import os
from pathlib import Path


def folder() -> Path:
    """$GENMOD_CACHE_DIR, or the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("GENMOD_CACHE_DIR") or platformdirs.user_cache_dir("genmod"))
