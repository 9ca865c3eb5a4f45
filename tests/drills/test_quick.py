"""One trial or two of each drill."""

import pytest

from tests.drills.__main__ import ready_site
from tests.drills.plan import carry_out

pytestmark = pytest.mark.slow

IDS = """
    K1 KP K3 K4 K6 K7 K8 K9 K11 K12 K13 K14
    B1 B2 B3 B4 B5 B7
    K2 C1 C2 C4 C9
    D3 D4 D5 D6 D7
""".split()  # noqa: SIM905 - as the plan lists them


@pytest.fixture(scope="module")
def ready(fork_server):
    with ready_site(fork_server) as found:
        yield found


def test_every_drill_has_its_quick_form(ready):
    _, known = ready
    assert [drill.id for drill in known] == IDS


@pytest.mark.parametrize("id_", IDS)
def test_the_service_bears(ready, id_):
    site, known = ready
    (drill,) = [one for one in known if one.id == id_]
    if drill.obstacle:
        pytest.skip(drill.obstacle)
    report = carry_out(drill, site, seed=1, num_trials=drill.quick)
    assert not report.failures, report.failures
    assert len(report.seconds) == drill.quick
