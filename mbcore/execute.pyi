from collections.abc import Callable
from typing import Any

from mbcore.control import ModbusControlBlock

def execute_request(
    context: Any,
    control: ModbusControlBlock,
    pdu: bytes | bytearray | memoryview,
    report: Callable[[str, BaseException], object] | None = None,
) -> bytes: ...
