"""Group B, clocks: a worker and an API whose clocks are an hour off."""

import random
import shutil
import subprocess
from pathlib import Path

from tests.drills.plan import Drill
from tests.drills.site import Site
from tests.drills.work import Work, spec_of

_HOUR = 3600
_SHIFT = "DRILL_CLOCK_SHIFT"
_SOURCE = f"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long shift(void) {{
    const char *text = getenv("{_SHIFT}");
    return text ? atol(text) : 0;
}}

int clock_gettime(clockid_t clock, struct timespec *now) {{
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(clock, now);
    if (!code && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += shift();
    return code;
}}

int gettimeofday(struct timeval *now, void *zone) {{
    struct timespec exact;
    int code = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return code;
}}

time_t time(time_t *out) {{
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (out) *out = exact.tv_sec;
    return exact.tv_sec;
}}
"""
"""Does what libfaketime does, for the wall clock alone."""


def drills(work: Work) -> list[Drill]:
    """Return the group's drills for a site that is set up."""
    obstacle = None if shutil.which("cc") else "no C compiler is installed, to shift a clock with"
    trials = _Trials(work)
    return [
        Drill(
            "B12", "worker's and API's clocks an hour off, apart", "no lease expires", trials.b12,
            20, obstacle=obstacle,
        )
    ]  # fmt: skip


class _Trials:
    def __init__(self, work: Work) -> None:
        self._work = work

    def b12(self, site: Site, chance: random.Random) -> None:
        library = _compiled(site.settings.home.parent)
        sign = chance.choice([-1, 1])
        preloaded = {"LD_PRELOAD": str(library)}
        site.only_worker(**preloaded, **{_SHIFT: str(sign * _HOUR)})
        site.only_api(**preloaded, **{_SHIFT: str(-sign * _HOUR)})
        try:
            job_id = site.submit(spec_of(self._work.dataset))
            job = self._work.assert_whole(site, job_id)
            assert len(job["attempts"]) == 1, job["attempts"]
        finally:
            site.kill_workers()
            site.only_api()


def _compiled(folder: Path) -> Path:
    library = folder / "clock.so"
    if not library.exists():
        command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), "-x", "c", "-"]
        subprocess.run([*command, "-ldl"], input=_SOURCE, text=True, check=True)
    return library
