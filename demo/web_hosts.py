"""The names that a web demo goes by, against pages of other sites."""

import ipaddress
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers

LOCALHOST = ('localhost', '127.0.0.1', '::1')
EVERYWHERE = ('0.0.0.0', '::')
HOST = re.compile(r'(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9_.-]+?)\.?)(?::[0-9]{1,5})?')
UNKNOWN_HOST = 'This server does not go by that name; --allowed-hosts adds names to it.'
OTHER_SITE = 'A page of another site asks; only this server itself and --allowed-hosts may.'


class RefusedError(Exception):
    """A request that is not passed on.

    Args:
        status: HTTP status.
        message: A sentence.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


class Hosts:
    """The names that a server goes by, against pages that give their own name its address.

    Args:
        bound: Address or name that the server listens on. With ``0.0.0.0`` or ``::`` any numeric
            address is right: those are no names, which somebody else could have chosen.
        allowed: Further names, as browsers see them; ``'*'`` for any.
    """

    def __init__(self, bound: str, allowed: Sequence[str] = ()) -> None:
        self.allowed = {name.casefold().strip('[]').rstrip('.') for name in allowed}
        self.names = {*LOCALHOST, bound.casefold().strip('[]'), *self.allowed}
        self.numeric = bound.strip('[]') in EVERYWHERE

    def check(self, headers: Headers) -> None:
        """Refuse another server's name, and pages of other sites.

        Raises:
            RefusedError: If it is one.
        """
        hosts = headers.getlist('host')
        if len(hosts) != 1 or not self._knows(hosts[0]):
            raise RefusedError(421, UNKNOWN_HOST)
        for origin in headers.getlist('origin'):
            place = urlsplit_or_none(origin)
            if place is None or not self._is_same(place[0], place[1], hosts[0]):
                raise RefusedError(403, OTHER_SITE)

    def _knows(self, host: str) -> bool:
        name = host_name(host)
        if name is None:
            return False
        return name in self.names or '*' in self.allowed or (self.numeric and is_numeric(name))

    def _is_same(self, origin: str, name: str, host: str) -> bool:
        return origin.casefold() == host.casefold() or name in self.allowed or '*' in self.allowed


def urlsplit_or_none(origin: str) -> tuple[str, str] | None:
    """Host with port, and host, of an ``Origin``; ``None`` for 'null' and the like."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return None
    name = host_name(parts.netloc)
    if parts.scheme not in ('http', 'https') or name is None:
        return None
    return parts.netloc, name


def host_name(host: str) -> str | None:
    """The name or address in a ``Host`` header, without the port; ``None`` if it is malformed."""
    found = HOST.fullmatch(host)
    return None if found is None else (found[1] or found[2]).casefold()


def is_numeric(name: str) -> bool:
    """Whether this is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
