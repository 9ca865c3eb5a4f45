"""The documentation page works without a network."""

import re

import pytest

from tests.api.conftest import Shared

pytestmark = pytest.mark.slow


def test_the_page_and_all_that_it_loads_come_from_the_service(shared: Shared) -> None:
    home = shared.client.get("/", follow_redirects=True)
    loaded = re.findall(r'(?:src|href)="([^"]+)"', home.text)

    assert home.url.path == "/docs"
    for path in [path for path in loaded if not path.startswith("data:")]:
        assert not path.startswith(("http:", "https:", "//"))
        reply = shared.client.get(f"/{path}")
        assert reply.status_code == 200, path
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        kind = "text/css" if path.endswith(".css") else "text/javascript"
        assert reply.headers["Content-Type"].startswith(kind), path
    assert "http" not in shared.client.get("/docs/start.js").text
    assert "SwaggerUIBundle" in shared.client.get("/docs/swagger-ui-bundle.js").text


def test_the_page_may_load_nothing_from_elsewhere(shared: Shared) -> None:
    policy = shared.client.get("/docs").headers["Content-Security-Policy"]

    assert "http" not in policy
    assert "script-src 'self';" in policy
    assert "<script>" not in shared.client.get("/docs").text


@pytest.mark.parametrize("path", ["../../etc/passwd", "%2e%2e%2fcore.py", "redoc.standalone.js"])
def test_nothing_else_of_the_package_is_served(shared: Shared, path: str) -> None:
    assert shared.client.get(f"/docs/{path}").status_code == 404
