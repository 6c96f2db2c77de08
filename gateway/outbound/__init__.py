"""Calls that leave for something else than a replica, one file per kind; none is on the way of a request."""
