"""What the tests of the local Hub share: the repositories it serves, and requests with nothing in between."""

import http.client

import numpy as np
from safetensors.numpy import save

WEIGHTS = {
    name: save({"a": np.full((64, 64), value, np.float32), "b": np.arange(value + 1)})
    for value, name in enumerate(("main", "step0", "sweep/lr-0.1"))
}
CONFIG = b'{"hidden_size": 64}\n'
MODEL, FILE = "org/model", "org/model/model.safetensors"
RESOLVE = "/org/model/resolve/main/model.safetensors"


def connect(hub, timeout=5.0):
    return http.client.HTTPConnection(*hub.server_address, timeout=timeout)


def raw(hub, path=RESOLVE, method="GET", timeout=5.0, **headers):
    """One request with nothing between the test and the wire: status, headers, body."""
    connection = connect(hub, timeout)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def log(hub):
    return [(r.method, r.path, r.range, r.status) for r in hub.requests]
