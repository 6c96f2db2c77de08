"""The HTTP edge: OpenAI API, tenancy, billing and the wiring of the other four packages."""
