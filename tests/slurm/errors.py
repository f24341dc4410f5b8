"""What can go wrong while a local Slurm is brought up."""

from __future__ import annotations


class TestbedError(RuntimeError):
    """The local Slurm cannot be had; the message says why and what to do."""

    __test__ = False


class TrackerUnavailableError(TestbedError):
    """This machine cannot run the process tracker that was asked for."""
