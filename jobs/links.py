"""Symbolic links of a source tree that mean something else, or nothing, in a copy on a node.

Links are copied as links. This only says which of them a job will not be able to follow.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path

logger = logging.getLogger(__name__)

# Every node has its own.
NODE_LOCAL = ("/tmp", "/var/tmp", "/dev/shm", "/run")
_NAMED = 5


def warn_of_links(source: Path, states: Mapping[str, os.stat_result]) -> None:
    """Log one warning that names the links that a job cannot follow, and why.

    Args:
        source: the tree's root, resolved.
        states: relative path -> lstat of all its files.
    """
    links = [path for path, state in states.items() if stat.S_ISLNK(state.st_mode)]
    troubles = [text for path in links if (text := find_trouble(source, path))]
    if troubles:
        more = f" and {len(troubles) - _NAMED} more" if len(troubles) > _NAMED else ""
        logger.warning("links that jobs cannot follow: %s%s", "; ".join(troubles[:_NAMED]), more)


def find_trouble(source: Path, path: str) -> str | None:
    """Return why a job cannot follow a link; None if it can.

    Args:
        source: the tree's root, resolved.
        path: of the link, relative to the root.
    """
    target = os.readlink(source / path)
    place = os.path.normpath(os.path.join(source, os.path.dirname(path), target))
    is_inside = place == str(source) or place.startswith(f"{source}/")
    arrow = f"{path} -> {target}"
    if not os.path.isabs(target):
        return None if is_inside else f"{arrow} (leaves the tree; make it absolute)"
    if is_inside:
        return f"{arrow} (the tree itself, not the copy; make it relative)"
    if not os.path.lexists(place):
        return f"{arrow} (not there)"
    if place.startswith(tuple(f"{folder}/" for folder in NODE_LOCAL)) and not str(
        source
    ).startswith(NODE_LOCAL):
        return f"{arrow} (this machine's own disk)"
    return None
