from mbcore.engine.loop import Loop
from mbcore.line import LineSession

class SerialLoop(Loop):
    @property
    def session(self) -> LineSession: ...
    @property
    def errno(self) -> int: ...
    @property
    def schedule_errno(self) -> int: ...
    def __init__(
        self,
        session: LineSession,
        fd: int,
        character_time: float,
        *,
        direction: str = "auto",
        active: str = "high",
        gpio_fd: int = -1,
        delay_before: float = 0.0,
        delay_after: float = 0.0,
        priority: int = 0,
    ) -> None: ...
    def attend(self) -> None: ...
    def give_up(self) -> None: ...
