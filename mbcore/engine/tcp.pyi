from collections.abc import Callable

from mbcore.engine.loop import NetworkLoop
from mbcore.session import Session

class TcpLoop(NetworkLoop):
    @property
    def count(self) -> int: ...
    @property
    def accepted(self) -> int: ...
    @property
    def evicted(self) -> int: ...
    @property
    def refused(self) -> int: ...
    @property
    def refusal(self) -> int: ...
    def __init__(
        self,
        listener: int,
        new_session: Callable[[], Session],
        max_connections: int,
        idle_timeout: float = 0.0,
        *,
        per_host: int = 0,
        admit: Callable[[str], bool] | None = None,
        told: Callable[[bool], object] | None = None,
    ) -> None: ...
    def trace(self, on: bool) -> None: ...
    def disconnect(self) -> None: ...
