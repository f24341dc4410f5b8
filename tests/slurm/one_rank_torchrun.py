"""Takes torchrun's place in projects whose runs have one rank and need no torch.

Torch's own start costs seconds of a core, which a test of a hundred members has not. It becomes the
rank itself, under torchrun's variables.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    words = sys.argv[1:]
    rank = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    command = [sys.executable, *words[words.index("-m") :]]
    os.execve(sys.executable, command, {**os.environ, **rank})
