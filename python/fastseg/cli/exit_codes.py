"""What the exit codes of `fastseg` mean, and the error that stands for wrong usage."""

from __future__ import annotations

from fastseg.errors import FastsegError

OK = 0
SOME_FAILED = 1
USAGE = 2
INTERRUPTED = 130

DESCRIPTION = """\
exit codes:
  0    every file was done
  1    at least one file failed; the others were done
  2    wrong usage: nothing was done
  130  interrupted with Ctrl-C; finished files are kept, half-written ones removed"""


class UsageError(FastsegError, ValueError):
    """The command line as a whole makes no sense, so that no file is touched."""
