"""The context of a unit that is somewhere else."""

from mbcore.datastore.remote import RemoteSlaveContext

__all__ = ["RemoteSlaveContext"]
