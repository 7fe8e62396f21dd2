"""From a request to its handler: the table of routes, API versions, and errors as answers."""

import logging
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from urllib.parse import unquote

from pierhead.daemon.engine.engine import Engine
from pierhead.daemon.server import answer
from pierhead.daemon.server.answer import Answer
from pierhead.daemon.server.body import Body
from pierhead.daemon.server.call import Call, parse_query
from pierhead.daemon.server.head import Request
from pierhead.errors import NotFound, NotModified, PierheadError, StartFailed, plain
from pierhead.wire import versions

log = logging.getLogger("pierd")

Handler = Callable[[Call], Awaitable[Answer]]

_VERSION = re.compile(r"/v([0-9.]+)(/.*)")
_PART = re.compile(r"\{(\w+)(\*?)\}")


@dataclass(frozen=True, slots=True)
class Route:
    """One line of the API's table.

    path: "/containers/{name}/json"; "{name*}" also takes slashes (image names).
    cancellable: the handler's work is for this client alone, and is given up when it goes away.
    """

    method: str
    path: str
    handler: Handler
    cancellable: bool = False


class Router:
    """The application that connections call."""

    def __init__(self, engine: Engine, routes: Iterable[Route]) -> None:
        self._engine = engine
        self._fixed: dict[tuple[str, str], Route] = {}
        self._patterns: dict[tuple[str, str], list[tuple[re.Pattern[str], Route]]] = {}
        for route in routes:
            if "{" not in route.path:
                self._fixed[route.method, route.path] = route
                continue
            pattern = _PART.sub(lambda part: f"(?P<{part[1]}>{'.+' if part[2] else '[^/]+'})", route.path)
            key = route.method, route.path.split("/", 2)[1]
            self._patterns.setdefault(key, []).append((re.compile(pattern), route))

    async def __call__(self, request: Request, body: Body) -> Answer:
        """Handle a request. Errors become answers; nothing is raised but cancellation."""
        try:
            return await self._dispatch(request, body)
        except NotModified:
            return answer.Reply(304)
        except PierheadError as error:
            if not str(error):
                log.error("%s %s: an error without words", request.method, request.target, exc_info=error)
            return answer.error(str(error) or type(error).__name__, status_of(error))
        except Exception as error:
            log.exception("%s %s failed", request.method, request.target)
            return answer.error(plain(error), 500)

    async def _dispatch(self, request: Request, body: Body) -> Answer:
        target, _, query = request.target.partition("?")
        path = unquote(target) if "%" in target else target
        version = versions.MAXIMUM
        if path.startswith("/v") and (match := _VERSION.fullmatch(path)):
            version = versions.negotiate(match[1])
            path = match[2]
        route, parts = self._find(request.method, path)
        request.cancellable = route.cancellable
        call = Call(self._engine, request, body, parts, parse_query(query), version)
        with self._engine.request(f"server: {request.method} {route.path}"):
            return await route.handler(call)

    def _find(self, method: str, path: str) -> tuple[Route, dict[str, str]]:
        route = self._fixed.get((method, path))
        if route is not None:
            return route, {}
        for pattern, candidate in self._patterns.get((method, path.split("/", 2)[1] if path[:1] == "/" else ""), ()):
            if match := pattern.fullmatch(path):
                return candidate, match.groupdict()
        raise NotFound("page not found")


def status_of(error: PierheadError) -> int:
    """The HTTP status of an error."""
    return error.http_status if isinstance(error, StartFailed) else error.status
