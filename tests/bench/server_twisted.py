"""No Modbus server: what Twisted alone costs that answers every request of ten registers from address 0 with the same bytes."""

import argparse

from twisted.internet import reactor
from twisted.internet.protocol import Protocol, ServerFactory

REQUEST = 12

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--port", type=int, required=True)
chosen = options.parse_args()

# The pattern that mbload --expect pattern knows; the transaction id is the request's.
values = b"".join(((a * 40503 + 0x1234) & 0xFFFF).to_bytes(2, "big") for a in range(10))
ANSWER = bytes.fromhex("0000 0017 01 03 14") + values


class Canned(Protocol):
    """One connection."""

    rest = b""

    def dataReceived(self, data):
        data = self.rest + data
        end = len(data) - len(data) % REQUEST
        self.rest = data[end:]
        self.transport.write(b"".join([data[at : at + 2] + ANSWER for at in range(0, end, REQUEST)]))


reactor.listenTCP(chosen.port, ServerFactory.forProtocol(Canned), backlog=1024, interface="127.0.0.1")
reactor.run()
