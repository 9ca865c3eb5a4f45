"""The servers that `luthier up` and the tests run themselves: PostgreSQL and Valkey from wheels.

Both are direct, supervised children of the calling process. They listen on 127.0.0.1 with a
random password, keep their data between starts, and end when their supervisor ends.
"""

from luthier.embedded.home import Home
from luthier.embedded.postgres import EmbeddedPostgres
from luthier.embedded.valkey import EmbeddedValkey

__all__ = ["EmbeddedPostgres", "EmbeddedValkey", "Home"]
