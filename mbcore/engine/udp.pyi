from collections.abc import Callable

from mbcore.engine.loop import NetworkLoop
from mbcore.session import Session

class UdpLoop(NetworkLoop):
    @property
    def dropped(self) -> int: ...
    @property
    def undelivered(self) -> int: ...
    @property
    def refusal(self) -> int: ...
    @property
    def undelivered_peer(self) -> str | None: ...
    def __init__(
        self, fd: int, new_session: Callable[[], Session], max_waiting: int, *, admit: Callable[[str], bool] | None = None
    ) -> None: ...
