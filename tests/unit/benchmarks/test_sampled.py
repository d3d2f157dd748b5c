from benchmarks.sampled import by_kind, package_of

ROOT = 'process 10:"python -m fairlead.run.warm.root /tmp/x"'
STACKS = f"""{ROOT};main (fairlead/run/warm/root.py:229);select (selectors.py:468) 4
{ROOT};process 11:"ray::Runner";main (fairlead/run/warm/root.py:229);do (fairlead/run/runner.py:9);get (ray/api.py:3) 6
{ROOT};process 11:"ray::Runner";main (fairlead/run/warm/root.py:229);loads (json/decoder.py:1) 2
process 20:"python -m fairlead_api";run (uvicorn/server.py:86);answer (fairlead_api/views.py:5) 8
process 20:"python -m fairlead_api"
"""


def test_a_child_has_its_own_time_and_its_kind_from_any_of_its_stacks() -> None:
    assert by_kind(STACKS, starts=2) == {
        "API and loops": {"fairlead_api": 40.0},
        "fork server": {"python": 20.0},
        "runner": {"ray": 30.0, "python": 10.0},
    }


def test_files_belong_to_packages() -> None:
    assert [package_of(file) for file in ("ray/a/b.py", "selectors.py", "<frozen runpy>", "asyncio/tasks.py")] == [
        "ray",
        "python",
        "python",
        "python",
    ]
