"""`python -m jobs doctor`: what this site supports, and a cluster profile for it."""

from __future__ import annotations

import argparse
import os

TYPE_CHECKING = False  # typing costs milliseconds
if TYPE_CHECKING:
    from pathlib import Path

    from jobs.doctor import Finding
    from jobs.site import Site

HELP = "say what this Slurm supports; --write makes configs/clusters/NAME.yaml from it"

_MARKS = {"ok": "ok     ", "note": "note   ", "problem": "PROBLEM"}
_INFINIBAND = "/sys/class/infiniband"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--write",
        nargs="?",
        const="",
        metavar="NAME",
        help="write the profile (default name: Slurm's ClusterName)",
    )
    parser.add_argument("--force", action="store_true", help="replace a profile of that name")
    parser.add_argument("--json", action="store_true", help="print findings and profile as json")


def run(arguments: argparse.Namespace) -> int:
    """Print the findings; returns 1 if one of them is a problem.

    Raises:
        SubmitError: if no Slurm answers.
        ConfigError: if the profile is there already.
    """
    import json
    from pathlib import Path

    from jobs.doctor import examine, profile_text
    from jobs.errors import SubmitError
    from jobs.settings import load_settings
    from jobs.site import read_site

    configs = Path(__file__).resolve().parent.parent / "configs"
    try:
        site = read_site()
    except SubmitError as error:
        text = f"no Slurm answers here: run this on a login node of the cluster. {error}"
        raise SubmitError(text) from error
    findings = examine(site, disk_type(load_settings(configs).runs))
    profile = profile_text(site, has_infiniband=os.path.isdir(_INFINIBAND))
    if arguments.json:
        facts = {"findings": [each.to_json() for each in findings], "profile": profile}
        print(json.dumps(facts, indent=1))
    else:
        _print(findings)
    if arguments.write is not None:
        path = write_profile(configs, arguments.write or _name_of(site), profile, arguments.force)
        if not arguments.json:
            print(f"\nwrote {path}: read it over, then launch with --dry-run")
    elif not arguments.json:
        _suggest(configs, site)
    return int(any(each.level == "problem" for each in findings))


def _print(findings: list[Finding]) -> None:
    width = max(len(each.topic) for each in findings)
    for each in findings:
        print(f"{_MARKS[each.level]}  {each.topic:<{width}}  {each.text}")


def _suggest(configs: Path, site: Site) -> None:
    from jobs.cluster import list_clusters

    name = _name_of(site)
    if name in list_clusters(configs):
        print(f"\nprofile: {configs / 'clusters' / name}.yaml")
    else:
        print("\nno profile of this cluster yet: python -m jobs doctor --write")


def write_profile(configs: Path, name: str, text: str, replaces: bool) -> Path:
    """Write a profile.

    Raises:
        ConfigError: if one is there, or the name is none for a file.
    """
    import re

    from jobs.errors import ConfigError

    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(f"{name!r} is no name for a profile: letters, digits and . _ - only")
    path = configs / "clusters" / f"{name}.yaml"
    if path.exists() and not replaces:
        raise ConfigError(f"{path} is there already: another NAME, or --force to replace it")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _name_of(site: Site) -> str:
    return site.setting("ClusterName") or "cluster"


def disk_type(folder: Path) -> str:
    """Return the file system type of a folder, which may not be there yet; empty if unknown."""
    from pathlib import Path

    place = folder.resolve()
    best, found = "", ""
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    for line in mounts:
        _, mount, kind, *_ = line.split()
        mount = mount.replace("\\040", " ")
        inside = place.is_relative_to(mount)
        if inside and len(mount) >= len(best):
            best, found = mount, kind
    return found if best and os.path.isdir(best) else ""
