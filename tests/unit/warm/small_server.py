"""A warm server without torch, Ray or a second level: it forks whatever a launcher brings. Run it with a directory.

A launcher's ``DIE`` says when it is to die, and ``DIE_CHILD`` the child, as by ``kill -9``.
"""

import os
import signal
import socket
import sys
from pathlib import Path

from fairlead.run.warm.child import Inheritance, become
from fairlead.run.warm.request import Request, parse_body


def main(directory: Path) -> None:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(directory / "socket"))
    listener.listen()
    print("ready", flush=True)
    while True:
        connection, _ = listener.accept()
        data, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
        line, _, body = data.partition(b"\n")
        size = int(line.split()[2])
        while len(body) < size:
            body += connection.recv(1 << 20)
        request = parse_body(body)
        assert isinstance(request, Request)
        die_if(request.environment.get("DIE") == "asked")
        connection.sendall(b"seen\n")
        die_if(request.environment.get("DIE") == "seen")
        if (pid := os.fork()) == 0:
            become(lambda request=request, given=descriptors: inheritance(request, given), connection, [])
        for descriptor in descriptors:
            os.close(descriptor)
        die_if(request.environment.get("DIE") == "forked")
        _, status = os.waitpid(pid, 0)
        connection.sendall(b"exit %d\n" % os.waitstatus_to_exitcode(status))
        connection.close()


def die_if(is_time: bool) -> None:
    if is_time:
        os.kill(os.getpid(), signal.SIGKILL)


def inheritance(request: Request, descriptors: list[int]) -> Inheritance:
    die_if(request.environment.get("DIE_CHILD") == "told to go")
    program = request.argv[0]
    return Inheritance(
        code=compile(Path(program).read_text(), program, "exec"),
        program=program,
        argv=list(request.argv),
        cwd=request.cwd,
        environment=request.environment,
        descriptors=(descriptors[0], descriptors[1], descriptors[2]),
        base_path=tuple(sys.path[1:]),
        limit_threads=lambda _: die_if(request.environment.get("DIE_CHILD") == "about to begin"),
    )


main(Path(sys.argv[1]))
