"""Tiny wheels and their locks, for tests of environments that reach no index."""

import hashlib
import zipfile
from pathlib import Path


def make_wheel(directory: Path, name: str, version: str, *, source: str = "", requires: tuple[str, ...] = ()) -> str:
    """Write a wheel of one pure module into ``directory``; the SHA-256 of its bytes, in hex."""
    stem = f"{name}-{version}"
    needed = "".join(f"Requires-Dist: {each}\n" for each in requires)
    members = {
        f"{name}.py": source or f"VERSION = {version!r}\n",
        f"{stem}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needed}",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{member},,\n" for member in (*members, f"{stem}.dist-info/RECORD"))
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for member, text in {**members, f"{stem}.dist-info/RECORD": record}.items():
            wheel.writestr(member, text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def lock_of(**pins: tuple[str, str]) -> bytes:
    """A lock: ``name=(version, sha256)``."""
    return "".join(f"{name}=={version} --hash=sha256:{sha256}\n" for name, (version, sha256) in pins.items()).encode()
