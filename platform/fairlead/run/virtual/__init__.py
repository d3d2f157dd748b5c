"""Virtual environments: packages of an experiment's own, built once on each node and kept there.

An *order* says what an attempt needs; a *place* is where a node keeps what it has built for it. The launcher takes the
place of the Python executable of ranks: where their environment is ready they start in it, cold; where it is not they
start as ever, build it, and are begun again. So whichever node a rank comes to has its environment.
"""

from fairlead.run.virtual.building import Answer, Contact, Ready, Refused, Stopped, build
from fairlead.run.virtual.orders import Conditions, Order, command_line, order_for
from fairlead.run.virtual.places import Place, Places

__all__ = [
    "Answer",
    "Conditions",
    "Contact",
    "Order",
    "Place",
    "Places",
    "Ready",
    "Refused",
    "Stopped",
    "build",
    "command_line",
    "order_for",
]
