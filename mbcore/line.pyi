from collections.abc import Callable, Iterable
from typing import Any

from mbcore.control import ModbusControlBlock
from mbcore.datastore.context import ModbusServerContext
from mbcore.framer.base import Framer
from mbcore.session import Session

class LineSession(Session):
    def __init__(
        self,
        framer: type[Framer],
        store: ModbusServerContext,
        control: ModbusControlBlock | None = None,
        *,
        units: Iterable[int] | None = None,
        frame_gap: float = 0.00175,
        reply_delay: float = 0.0,
        reply_deadline: float = 0.0,
        echo: str = "none",
        character_time: float = 0.0,
        paced: bool = True,
        ignore_missing_slaves: bool = False,
        report: Callable[[str, BaseException], object] | None = None,
        trace_pdu: Callable[[bool, Any], Any] | None = None,
        decoder: Any = None,
        answer_timeout: float = 3.0,
    ) -> None: ...
    def line_counters(self) -> dict[str, int]: ...
