"""Which addresses belong to the open internet, and which to our own network. Pure."""

import ipaddress
from urllib.parse import urlsplit

PRIVATE = "the address is not a public one"
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # IPv4 in its last four bytes

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def private_literal(url: str) -> bool:
    """Tell whether a URL names an address, not a name, and that is not public."""
    host = urlsplit(url).hostname or ""
    try:
        return not public(ipaddress.ip_address(host))
    except ValueError:
        return False


def public(address: Address) -> bool:
    """Tell whether an address belongs to the open internet, whatever it is wrapped in."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return public(inner)
        if address.teredo is not None or address.is_site_local:
            return False
    return address.is_global and not address.is_multicast
