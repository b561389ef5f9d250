"""Paths across layers as a plain graph, for other people's shortest-path code; it imports nothing from ninscope.

A state is (node, edges walked, whether a link was the last step). Edges lead from walked to walked + 1, links stay at walked,
at no distance, and none comes before the first edge. A node is reached where its last step was an edge.
"""

import heapq
import itertools
import math
from collections import defaultdict

Edge = tuple[int, int, float]


def states(edges: list[Edge], links: list[tuple[int, int]], k: int, source: int) -> dict:
    """The graph of states that `source` leads to: state -> [(state, length)]."""
    out, joined = defaultdict(list), defaultdict(list)
    for start, end, length in edges:
        out[start].append((end, length))
    for start, end in links:
        joined[start].append(end)
    graph, waiting = {}, [(source, 0, False)]
    while waiting:
        state = waiting.pop()
        if state in graph:
            continue
        node, walked, _ = state
        graph[state] = [((end, walked + 1, False), length) for end, length in out[node] if walked < k]
        if walked:
            graph[state] += [((end, walked, True), 0.0) for end in joined[node]]
        waiting += [after for after, _ in graph[state]]
    return graph


def plain_distances(edges: list[Edge], links: list[tuple[int, int]], k: int, source: int) -> dict[int, float]:
    """Distance of every node that `source` reaches, by Dijkstra's algorithm on the states."""
    graph, done, found = states(edges, links, k, source), set(), {}
    order = itertools.count()
    queue = [(0.0, next(order), (source, 0, False))]
    while queue:
        length, _, state = heapq.heappop(queue)
        if state in done:
            continue
        done.add(state)
        node, walked, linked = state
        if walked and not linked:
            found[node] = min(found.get(node, math.inf), length)
        for after, step in graph[state]:
            heapq.heappush(queue, (length + step, next(order), after))
    return found


def numbered(graph: dict) -> tuple[dict, list[Edge]]:
    """(number of each state, the graph's edges between numbers): what libraries take."""
    number = {state: place for place, state in enumerate(graph)}
    return number, [
        (number[state], number[after], length) for state, afters in graph.items() for after, length in afters
    ]
