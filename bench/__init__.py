"""What a request and a streamed chunk cost, measured beside references in the same run: ``make bench``."""
