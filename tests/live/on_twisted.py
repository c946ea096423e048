"""Runs the script in its first argument, with the others for its own, as if no compiled loop could carry its bytes."""

import runpy
import sys

from mbcore.server.factory import ModbusServerBase

ModbusServerBase.obstacle = lambda self, own_protocol, asked: "the tests want Twisted"
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
