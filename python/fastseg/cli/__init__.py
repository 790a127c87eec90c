"""The command `fastseg`: one file per sub-command, and what they share.

`main` is the entry point of the console script and of `python -m fastseg`.
"""

from fastseg.cli.main import main

__all__ = ["main"]
