"""What can go wrong while a local Slurm is brought up."""

from __future__ import annotations


class TestbedError(RuntimeError):
    """The local Slurm did not come up or go down; the message says why and what to do."""

    __test__ = False


class UnavailableError(TestbedError):
    """This machine cannot run it: no root, no packages and no way to install them."""


class TrackerUnavailableError(UnavailableError):
    """This machine cannot run the process tracker that was asked for."""
