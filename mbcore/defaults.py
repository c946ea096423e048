"""How a line speaks where nothing is said, and pymodbus' names for defaults and codes.

Those describe; what a server does by itself is said where it is started. Their values are those of pymodbus 2.5.3, but that a value
assigned here changes no server: hand it to the server instead.
"""

#: pyserial's keywords for the characters that the specification wants of every device (Modbus over Serial Line V1.02, 2.5.1).
LINE_FORMAT = {"baudrate": 19200, "bytesize": 8, "parity": "E", "stopbits": 1}


class Defaults:
    """The defaults of pymodbus' servers and clients; times in seconds."""

    Port = 502
    TLSPort = 802
    Backoff = 0.3
    Retries = 3
    RetryOnEmpty = False
    RetryOnInvalid = False
    Timeout = 3
    Reconnects = 0
    TransactionId = 0
    ProtocolId = 0
    UnitId = 0
    Baudrate = 19200
    Parity = "N"
    Bytesize = 8
    Stopbits = 1
    ZeroMode = False
    IgnoreMissingSlaves = False
    ReadSize = 1024
    broadcast_enable = False


class ModbusStatus:
    """Words of the protocol: the status of 11 and 12, a coil in 05, the run indicator of 17."""

    Waiting = 0xFFFF
    Ready = 0x0000
    On = 0xFF00
    Off = 0x0000
    SlaveOn = 0xFF
    SlaveOff = 0x00


class Endian:
    """Byte and word orders, as the :mod:`struct` module writes them."""

    Auto = "@"
    Big = ">"
    Little = "<"


class ModbusPlusOperation:
    """Operations of 08 Diagnostics, sub-function 21."""

    GetStatistics = 0x0003
    ClearStatistics = 0x0004


class DeviceInformation:
    """Read device identification codes (AP 6.21)."""

    Basic = 0x01
    Regular = 0x02
    Extended = 0x03
    Specific = 0x04


class MoreData:
    """Whether a response to 43/14 is continued by another."""

    Nothing = 0x00
    KeepReading = 0xFF
