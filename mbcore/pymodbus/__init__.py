"""pymodbus 2.5.3's modules and names, for scripts written for its Twisted server: write ``mbcore.pymodbus`` for ``pymodbus``.

Faces only: what a name does is in the rooms below. A module is imported when it is asked for; this one imports none of them.
"""

from mbcore.compat import version

__version__ = version.short()
