"""Addresses on this very machine: no proxy leads there, whatever the environment's proxy variables say."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies


def is_loopback(host: str) -> bool:
    """Whether a host, a name or an address, is this machine by definition."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # another name: whatever it leads to
        return False


@contextmanager
def no_proxy_for_loopback(urls: str) -> Iterator[None]:
    """While an HTTP client is made, which reads the proxy variables then: leave out the loopback hosts among its URLs.

    Args:
        urls: one or several, comma-separated.
    """
    hosts = [host for url in urls.split(",") if is_loopback(host := urlsplit(url.strip()).hostname or "")]
    before = os.environ.get("no_proxy")  # in lower case it goes before NO_PROXY
    os.environ["no_proxy"] = ",".join(filter(None, [getproxies().get("no", ""), *hosts]))
    try:
        yield
    finally:
        if before is None:
            del os.environ["no_proxy"]
        else:
            os.environ["no_proxy"] = before
