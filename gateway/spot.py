"""What happens when a cloud wants this machine back: its replicas leave routing and finish what they can.

Nothing new is started here: the machine goes. With the gateway itself on it, `/readyz` turns red, so that a
balancer asks another one. On a machine that has replicas only, `switchgear fleet watch` passes the notice on
to the gateway, which names substitutes.
"""

import logging
from collections.abc import Callable

from backends.supervisor import Supervisor
from gateway.outbound import notices
from gateway.settings import SpotSettings

log = logging.getLogger("switchgear.spot")


class SpotWatch:
    """Listens for the notice, and acts on the first one."""

    def __init__(self, supervisor: Supervisor, wall: Callable[[], float]) -> None:
        self._supervisor, self._wall = supervisor, wall
        self.settings: SpotSettings | None = None
        self.leave: Callable[[], None] = lambda: None
        """Called at the notice, for `/readyz`."""

    def watches(self) -> bool:
        """Whether there is a cloud to ask, and no notice yet."""
        return self.settings is not None and not self._supervisor.leaving

    async def look(self) -> None:
        """Ask once. Raises NoMetadata, which the loop counts and logs."""
        if self.settings is None or self._supervisor.leaving:
            return
        left_s = await notices.notice_s(self.settings.cloud, self._wall(), self.settings.metadata_url)
        if left_s is None:
            return
        self._supervisor.leaving = True
        self.leave()
        log.warning("this machine is taken away in %.0f s", left_s)
        for id_, one in list(self._supervisor.replicas.items()):
            if one.launched:
                self._supervisor.reclaim(id_, left_s)
