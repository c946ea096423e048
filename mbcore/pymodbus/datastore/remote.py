"""The context of a unit that is somewhere else."""

from mbcore.server.gateway import RemoteSlaveContext

__all__ = ["RemoteSlaveContext"]
