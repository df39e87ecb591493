"""The figures of docs/reliability.md that no other row gives: ``python -m pytest -rP tests/contract/test_numbers.py``.

Each prints what it measured. What it asserts is that nothing is lost and that it ends within a generous bound; the
figures themselves are not asserted, because a busy machine has others.
"""

import itertools
import random
import time

import moai
import pytest
from fakes.box import Box
from fakes.proxy import Proxy
from fakes.smallbox import inside, small_box
from fakes.sshd import make_key, wait_until
from pulse import Pulse

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("need_sshd"), pytest.mark.timeout(600)]
#: Replies that are cut, within the bytes that one takes with its SSH frames.
CUTS, REPLY_BYTES = 200, 300


@pytest.fixture
def reached(tmp_path):
    """(container, proxy on the way to it)."""
    with Box(tmp_path, look_alike=False) as box, Proxy(box.sshd.host, box.sshd.port) as way:
        key = f"[{box.sshd.host}]:{box.sshd.port}"
        box.sshd.ssh_config(box.ssh_config, alias=box.alias, Port=str(way.port), HostKeyAlias=key)
        yield box, way
        box.moai("remote", "disconnect")


def test_a_dead_link_is_noticed_and_its_stream_goes_on(reached):
    """Nothing passes and nothing is closed: only an unanswered ping tells."""
    box, way = reached
    pulse, noticed, back = Pulse(box), [], []
    wait_until(lambda: len(pulse.lines) > 5, "the pulse", 60.0)
    for _ in range(3):
        before, begun_s = way.connections, time.monotonic()
        way.stall()
        wait_until(lambda: way.connections > before, "the dead link to be given up", 60.0)
        noticed.append(time.monotonic() - begun_s)
        seen, begun_s = len(pulse.lines), time.monotonic()
        way.resume()
        wait_until(lambda: len(pulse.lines) > seen + 1, "the stream to go on", 60.0)
        back.append(time.monotonic() - begun_s)
    pulse.end()
    print(f"dead link: given up and tried anew within {max(noticed):.1f} s, streams on within {max(back):.2f} s of its healing")


def test_two_hundred_cut_replies_are_a_job_each(reached, as_laptop):
    """The reply to a submission is cut at any byte; the client asks again until it knows, and it is one job."""
    box, way = reached
    as_laptop(box.laptop)
    dice, lost, ids = random.Random(7), 0, set()
    with moai.connect("box") as host:
        host.jobs()
        before = way.connections
        for number in range(CUTS):
            options = moai.JobOptions(request_id=f"cut-reply-{number:04d}")
            way.cut_after("down", dice.randrange(1, REPLY_BYTES))
            for tries in itertools.count(1):
                try:
                    ids.add(host.run(["sh", "-c", f"echo x >>{box.home}/ran-{number}"], options).id)
                    break
                except moai.HostUnreachable:
                    lost += 1
                    assert tries < 20, "no answer in 20 tries"
        way.resume()
        cuts = way.connections - before
        assert cuts >= CUTS * 3 // 4, f"only {cuts} of the cuts hit"
        for job in ids:
            host.job(job).wait(60)
        infos = host.jobs(CUTS * 2)
    assert len(ids) == CUTS and {one.id for one in infos} == ids
    assert all((box.home / f"ran-{number}").read_text() == "x\n" for number in range(CUTS))
    print(f"cut replies: {CUTS} submissions, {cuts} connections cut, {lost} errors shown to the caller, {len(infos)} jobs")


@pytest.fixture
def small(tmp_path):
    """A container whose home is a file system of 48 MB, seen by its sshd alone."""
    with small_box(tmp_path, "48m") as box:
        yield box


def test_a_full_disk_heals_and_an_end_on_it_is_kept(small):
    """The log goes on once there is room; a job that ends meanwhile has its state and code. What was lost is a gap."""
    box = small
    gate = box.folder / "gate"
    done = box.moai("remote", "run", "-d", "--", "sh", "-c", f"while [ ! -e {gate} ]; do sleep 0.05; done; exit 37")
    assert done.returncode == 0, done.stderr.decode()
    ends = done.stdout.decode().strip()
    pulse = Pulse(box)
    wait_until(lambda: len(pulse.lines) > 5, "the pulse", 60.0)
    inside(box, 'cat /dev/zero > "$1/ballast" || true')
    gate.touch()
    said = box.moai("remote", "wait", ends, timeout=60)
    seen = len(pulse.lines)
    inside(box, 'rm "$1/ballast"')
    begun_s = time.monotonic()
    wait_until(lambda: len(pulse.lines) > seen + 5, "the log to go on", 60.0)
    took_s = time.monotonic() - begun_s
    assert said.returncode == 3 and box.moai("remote", "wait", ends).returncode == 3, said.stderr.decode()
    shown = box.moai("remote", "attach", ends, "--json").stdout.splitlines()
    assert b'"exit_code": 37' in shown[-1] or b'"exit_code":37' in shown[-1], shown[-1]
    box.moai("remote", "cancel", pulse.job)
    pulse.thread.join(60.0)
    with pulse.process:
        assert pulse.process.wait(60.0) == 0
    events = box.moai("remote", "attach", pulse.job, "--json").stdout.decode()
    missing = pulse.lines[-1] - len(pulse.lines)
    assert sorted(set(pulse.lines)) == pulse.lines and (missing == 0 or '"gap"' in events), events[-2000:]
    print(f"full disk: the log goes on within {took_s:.2f} s of there being room; the end told on it is kept; {missing} lines missing")


def no_key(box: Box) -> None:
    """The container lets nobody in any more."""
    (box.sshd.folder / "authorized_keys").write_text("")


def other_host_key(box: Box) -> None:
    """The container answers with another host key than the known one."""
    kept = box.sshd.known_hosts.read_text()
    key = make_key(box.folder / "other").with_suffix(".pub").read_text().split()
    box.sshd.known_hosts.write_text("".join(f"{line.split()[0]} {key[0]} {key[1]}\n" for line in kept.splitlines()))


@pytest.mark.parametrize(("change", "reason", "code"), [(no_key, b"SIGN_IN_FAILED", 4), (other_host_key, b"HOST_KEY_CHANGED", 5)])
def test_what_only_a_person_can_mend_is_tried_once(reached, change, reason, code):
    """In the middle of a followed job: one attempt, then an error; and one for a new command."""
    box, way = reached
    pulse = Pulse(box)
    wait_until(lambda: len(pulse.lines) > 5, "the pulse", 60.0)
    change(box)
    before = way.connections
    way.reset()
    try:
        ended, errors = pulse.process.wait(60.0), pulse.process.stderr.read()
    finally:
        pulse.process.kill()
        pulse.process.communicate()
    assert ended == code and reason in errors, (ended, errors)
    tried = way.connections - before
    done = box.moai("remote", "cancel", pulse.job, timeout=60)
    again = way.connections - before - tried
    print(f"{reason.decode()}: {tried} attempts of the followed job's link, {again} of a new command")
    assert done.returncode == code and reason in done.stderr, done.stderr
    assert (tried, again) == (1, 1)
