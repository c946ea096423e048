"""What scripts of the Python 2 age import to run on Python 3 too."""

import socketserver
import sys
from builtins import chr as unichr
from builtins import filter as ifilter
from builtins import map as imap
from builtins import next as get_next
from builtins import range as range_type
from builtins import str as unicode_string
from builtins import zip as izip
from io import StringIO as NativeStringIO
from sys import intern
from sys import version_info as PYTHON_VERSION

from mbcore.compat import byte2int, implements_to_string, int2byte, is_installed, iteritems, iterkeys, itervalues

IS_PYTHON2 = False
IS_PYTHON3 = True
IS_PYPY = sys.implementation.name == "pypy"
IS_JYTHON = False
string_types = text_type = (str,)

__all__ = [
    "IS_JYTHON",
    "IS_PYPY",
    "IS_PYTHON2",
    "IS_PYTHON3",
    "PYTHON_VERSION",
    "NativeStringIO",
    "byte2int",
    "get_next",
    "ifilter",
    "imap",
    "implements_to_string",
    "int2byte",
    "intern",
    "is_installed",
    "iteritems",
    "iterkeys",
    "itervalues",
    "izip",
    "range_type",
    "socketserver",
    "string_types",
    "text_type",
    "unichr",
    "unicode_string",
]
