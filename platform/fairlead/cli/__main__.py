"""``python -m fairlead.cli``: the same as ``fairlead``."""

from fairlead.cli import main

main()
