from fairlead.agent.cluster import given_up
from fairlead.protocol import NodeInfo


def a_node(node_id: str, *, is_alive: bool) -> NodeInfo:
    return NodeInfo(node_id=node_id, address="h", is_alive=is_alive, cpus=1, gpus=0, free_cpus=1, free_gpus=0)


def test_a_node_is_given_up_from_the_first_sight_of_it_until_the_head_forgets_it() -> None:
    nodes = [a_node("alive", is_alive=True), a_node("dead", is_alive=False), a_node("new", is_alive=False)]
    assert given_up({"dead": 1.0, "forgotten": 0.5}, nodes, now_s=3.0) == {"dead": 1.0, "new": 3.0}
