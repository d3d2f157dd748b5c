"""One of several processes that try the same moves at the same time; says on standard output which it won."""

import json
import sys

from fairlead.lifecycle import State
from fairlead.store import experiments, open_store
from fairlead.testing import FakeClock


def main(url: str, *keys: str) -> None:
    store, now, won = open_store(url), FakeClock().now(), []
    with store.read() as session:
        rows = [experiments.get(session, key) for key in keys]
    print("ready", flush=True)
    sys.stdin.readline()
    for row in rows:
        with store.write() as session:
            if experiments.move_if_current(session, row, State.QUEUED, reason="race", actor="racer", now=now):
                won.append(row.id)
        with store.write() as session:
            experiments.note(session, row.id, kind="passed", actor="racer", now=now)
    store.close()
    print(json.dumps({"won": won}))


main(*sys.argv[1:])
