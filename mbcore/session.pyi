from collections.abc import Callable
from typing import Any

from mbcore.control import ModbusControlBlock
from mbcore.datastore.context import ModbusServerContext
from mbcore.framer.base import Framer

class Session:
    @property
    def framer(self) -> Framer: ...
    @property
    def store(self) -> ModbusServerContext: ...
    @property
    def control(self) -> ModbusControlBlock: ...
    @property
    def closing(self) -> bool: ...
    def __init__(
        self,
        framer: type[Framer],
        store: ModbusServerContext,
        control: ModbusControlBlock | None = None,
        *,
        serial: bool = False,
        frame_gap: float = 0.0,
        ignore_missing_slaves: bool = False,
        broadcast_enable: bool = False,
        report: Callable[[str, BaseException], object] | None = None,
        trace_pdu: Callable[[bool, Any], Any] | None = None,
        decoder: Any = None,
    ) -> None: ...
    def receive(self, data: bytes | bytearray | memoryview, now: float) -> bytes: ...
    def deadline(self) -> float | None: ...
    def expire(self, now: float) -> bytes: ...
    def datagram(self, data: bytes | bytearray | memoryview) -> bytes: ...
    def reset(self) -> None: ...
