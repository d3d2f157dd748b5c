import subprocess
import sys

from fairlead.run.sampling import processor_seconds

BURN = """
import sys, time
while time.process_time() < 0.5: pass
print("done", flush=True)
sys.stdin.read()
"""


def test_processor_seconds_count_children_while_they_live_and_after_they_were_waited_for() -> None:
    before = processor_seconds()
    with subprocess.Popen([sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"done\n"
        alive = processor_seconds()
        child.communicate()
    after = processor_seconds()
    assert alive - before >= 0.4
    assert after - before >= 0.4
