"""The fine-tuning API of OpenAI, as its unmodified client expects it, on this service's own store.

files, uploads, jobs, permissions, graders, models, predictions, webhooks    the routes
views         our jobs, events and checkpoints in OpenAI's words
translating   a request for a job as a spec
bodies        what requests say
asked         what requests to models say
schemas       what is answered
naming        ids, names and times of ours in OpenAI's words
"""

from fastapi import APIRouter

from api import openai_errors
from api.openai import files, graders, jobs, models, permissions, predictions, uploads, webhooks

router = APIRouter(
    prefix=openai_errors.PREFIX,
    tags=["openai"],
    responses={**openai_errors.default_response(), **openai_errors.responses(400, 401, 403, 429)},
)
for routes in (files, uploads, jobs, permissions, graders, models, predictions, webhooks):
    router.include_router(routes.router)
