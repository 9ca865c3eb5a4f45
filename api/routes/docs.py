"""The page that shows the OpenAPI document. Swagger UI comes with a package: no CDN is asked."""

from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from api.guard import DOCS_PATH

router = APIRouter(include_in_schema=False)

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Luthier</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" href="data:,">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis],
});
"""
_YEAR = "public, max-age=31536000"


@router.get("/")
async def show_home() -> RedirectResponse:
    """Lead to the documentation."""
    return RedirectResponse(DOCS_PATH)


@router.get(DOCS_PATH)
async def show_docs() -> HTMLResponse:
    """Show every route, with a form to try it."""
    return HTMLResponse(_PAGE)


@router.get(f"{DOCS_PATH}/start.js")
async def get_start_script() -> Response:
    """Return what starts Swagger UI: a file of its own, so that no inline script is allowed."""
    return Response(_START, media_type="text/javascript")


@router.get(f"{DOCS_PATH}/swagger-ui.css")
async def get_style() -> FileResponse:
    """Return Swagger UI's style."""
    return FileResponse(_package() / "swagger-ui.css", headers={"Cache-Control": _YEAR})


@router.get(f"{DOCS_PATH}/swagger-ui-bundle.js")
async def get_script() -> FileResponse:
    """Return Swagger UI."""
    return FileResponse(_package() / "swagger-ui-bundle.js", headers={"Cache-Control": _YEAR})


def _package() -> Path:
    """Return the folder of the files; the package's own code is not run."""
    spec = find_spec("fastapi_offline")
    assert spec is not None, "fastapi-offline is a dependency"
    assert spec.origin is not None, "it is a package of files"
    return Path(spec.origin).parent / "static"
