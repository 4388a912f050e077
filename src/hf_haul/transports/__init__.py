"""Ways to get a file's bytes: connections, retries, pace, and one transport per protocol."""

__all__: list[str] = []
