"""The scheduler core's answers to those who look for a site: where a node serves others, who stands in for one that has
left, and drivers, which dial and are not dialled.  It knows sites, never objects."""

from __future__ import annotations

from distpool.scheduler.capacity import Node
from distpool.scheduler.desk import Desk
from distpool.scheduler.events import ToAgent
from distpool.wire import agent_to_scheduler as from_agent
from distpool.wire import driver_to_scheduler as from_driver
from distpool.wire import scheduler_to_agent as to_agent
from distpool.wire import scheduler_to_driver as to_driver
from distpool.wire.objects import is_driver


class SiteSide:
    """See the module's description."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def on_agent_wants(self, node: Node, message: from_agent.SiteWanted) -> None:
        """A node looks for a site."""
        desk, site = self._desk, message.site
        if message.copies:
            self._seek_copies(node.name, site)
            return
        if is_driver(site):
            driver = desk.book.drivers.get(site)
            if driver is not None and driver.greeted:
                desk.tell(site, to_driver.SiteAt(node.name, node.name, node.site_endpoint, summoned=True))
                return
            found: tuple[str, str] | None = ("", "") if desk.knows_all() else None
        else:
            found = desk.site_at(site)
        if found is not None:
            desk.effects.append(ToAgent(node.name, to_agent.SiteAt(site, *found)))

    def on_node_gone(self, site: str) -> None:
        """Nodes that leave may wait for this one to take over what they have."""
        desk = self._desk
        for node in desk.book.nodes.values():
            if node.draining and not node.leases:
                desk.effects.append(ToAgent(node.name, to_agent.SiteAt(site, *(desk.site_at(site) or ("", "")))))

    def _seek_copies(self, seeker: str, site: str) -> None:
        """A site is gone: everybody else may have copies of its objects."""
        desk = self._desk
        for node in desk.book.nodes:
            if node != seeker:
                desk.effects.append(ToAgent(node, to_agent.CopiesWanted(site, seeker)))
        for driver in desk.book.drivers:
            if driver != seeker and is_driver(driver):
                desk.tell(driver, to_driver.CopiesWanted(site, seeker))

    def on_driver_wants(self, driver: str, message: from_driver.SiteWanted) -> None:
        """A driver looks for a node."""
        site = message.site
        if message.copies:
            self._seek_copies(driver, site)
            return
        found = self._desk.site_at(site)
        if found is not None:
            self._desk.tell(driver, to_driver.SiteAt(site, *found))
