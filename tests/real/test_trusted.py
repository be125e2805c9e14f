"""Where a project's directory can be written by its group, on the real batch systems: refused before any job."""

from __future__ import annotations

from tests.real.conftest import RealBed


def test_a_run_directory_where_others_can_write_is_refused_and_works_once_it_is_sticky(real: RealBed) -> None:
    project = real.bed.directory / "project"
    real.bed.run(["mkdir", project])
    project.chmod(0o777)
    said = real.run(
        """
        where = os.path.join(os.path.dirname(os.path.abspath(__file__)), "project")
        try:
            make(shared_temp_directory=where)
        except ConfigError as error:
            refused = str(error)
        jobs = os.listdir(where)
        os.chmod(where, 0o1777)
        with make(shared_temp_directory=where) as cluster, Client(cluster) as client:
            cluster.scale(jobs=1)
            say(refused=refused, made=jobs, right=client.submit(double, 4).result(90))
        """
    )
    assert f"chmod +t {project}" in said["refused"]
    assert (said["made"], said["right"]) == ([], 8)
