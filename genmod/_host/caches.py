"""Cache folder of genmod.

It holds compiled programs and decoded data, all of which can be made again.
"""

import os
from pathlib import Path


def folder() -> Path:
    """Returns $GENMOD_CACHE_DIR, or the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("GENMOD_CACHE_DIR") or platformdirs.user_cache_dir("genmod"))
