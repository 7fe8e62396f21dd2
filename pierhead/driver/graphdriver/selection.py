"""Which graph driver a daemon takes."""

import logging
from collections.abc import Collection, Mapping

from pierhead.driver.graphdriver.api import GraphDriver

log = logging.getLogger("pierd")


def choose(drivers: Mapping[str, GraphDriver], asked: str, used: Collection[str], data_root: str) -> GraphDriver:
    """One that works here: ``asked``, else the one whose layers the data root has, else the first that works.

    drivers: by name, the best first and last the one that works anywhere. used: the drivers of the layers and
    containers that there are; those of another driver would be there and could not be used.  Raises OSError.
    """
    others = sorted(set(used) - {asked})
    if asked:
        if asked not in drivers:
            raise OSError(f"unknown storage driver {asked}: use one of {', '.join(drivers)}")
        if others:
            raise OSError(
                f"{data_root} has images or containers of the storage driver {', '.join(others)}: start with "
                f"--storage-driver {others[0]} (and remove them there), or give {asked} another --data-root"
            )
        drivers[asked].probe()
        return drivers[asked]
    if others:
        if len(others) > 1 or others[0] not in drivers:
            raise OSError(f"{data_root} has images or containers of several storage drivers: {', '.join(others)}")
        log.info("graphdriver: %s has images or containers of %s: it is used again", data_root, others[0])
        drivers[others[0]].probe()
        return drivers[others[0]]
    *better, last = drivers.values()
    reasons = []
    for driver in better:
        try:
            driver.probe()
            return driver
        except OSError as error:
            reasons.append(f"{driver.name}: {error.strerror or error}")
    last.probe()
    log.warning("every container copies its image: only %s works here (%s)", last.name, "; ".join(reasons))
    return last
