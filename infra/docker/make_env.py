"""Makes the secrets that docker-compose.yml asks for: ``python infra/docker/make_env.py`` writes ``.env``, once.

Shows a user's token, which is kept nowhere: the server stores its hash alone. Needs no package.
"""

import argparse
import hashlib
import json
import os
import secrets
import sys
from pathlib import Path

CLUSTER = "compose"


def a_token() -> tuple[str, str]:
    """An id and the token itself, as ``fairlead.store.tokens`` reads it."""
    token_id = secrets.token_hex(5)
    return token_id, f"fl_{token_id}_{secrets.token_urlsafe(32)}"


def accepted(token_id: str, token: str, **who: str) -> dict[str, str]:
    """What the server is told of a token."""
    return {"id": token_id, "sha256": hashlib.sha256(token.encode()).hexdigest(), **who}


def content() -> tuple[str, str]:
    """The lines of the file, and the user's token."""
    user_id, user = a_token()
    agent_id, agent = a_token()
    entries = [
        accepted(user_id, user, kind="user", name="admin"),
        accepted(agent_id, agent, kind="agent", name=f"agent of {CLUSTER}", cluster=CLUSTER),
    ]
    values = {
        "POSTGRES_PASSWORD": secrets.token_urlsafe(32),
        "FAIRLEAD_DATABASE_PASSWORD": secrets.token_urlsafe(32),
        "MLFLOW_DATABASE_PASSWORD": secrets.token_urlsafe(32),
        "FAIRLEAD_SECRET_KEY": secrets.token_urlsafe(48),
        "FAIRLEAD_AGENT_TOKEN": agent,
        "FAIRLEAD_TOKENS": json.dumps({"tokens": entries}),
        "RAY_TOKEN": secrets.token_hex(32),
    }
    return "".join(f"{name}='{value}'\n" for name, value in values.items()), user


def main() -> None:
    """Write the file, readable by its owner alone, unless it is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--file", type=Path, default=Path(".env"))
    path = parser.parse_args().file
    lines, user = content()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        sys.exit(f"{path} is there already; its secrets are in use. Remove it to make new ones.")
    with os.fdopen(descriptor, "w") as file:
        file.write(lines)
    print(f"wrote {path}. Your token, shown once:\n{user}")


if __name__ == "__main__":
    main()
