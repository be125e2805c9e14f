"""Jobs of the real batch systems run nothing that lies in the directory they were submitted from."""

from __future__ import annotations

from tests import hostile
from tests.real.conftest import RealBed
from tests.test_safepath import ANSWER, TASK


def test_jobs_of_a_real_batch_system(real: RealBed) -> None:
    there = real.bed.directory / "shared by all"
    real.bed.run(["mkdir", there])
    there.chmod(0o777)
    ran = hostile.fill(there)
    script = real.bed.directory / "script.py"
    body = """
    with make() as cluster, Client(cluster) as client:
        cluster.scale(jobs=1)
        print(client.submit(own, 0).result(90))
    """
    script.write_text(TASK + real.program(body))
    done = real.bed.run(["sh", "-c", f"cd '{there}' && exec {real.bed.python} {script}"], timeout=150)
    assert (done.stdout.strip(), done.exit_code) == (ANSWER, 0), done.stdout + done.stderr
    assert not ran.exists(), ran.read_text()
