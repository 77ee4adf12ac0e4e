"""Progress bars: `tqdm.auto`, which chooses between a terminal and a notebook.

In a notebook without ipywidgets it warns when it is imported, and shows bars of text.
"""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="IProgress not found")
    from tqdm.auto import tqdm

__all__ = ["tqdm"]
