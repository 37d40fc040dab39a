"""Running code where a user does: in a kernel of the user's own server, through the proxy.

Not by the engine's exec: a user has none, and inside a chroot it enters the outer root instead of the container.
"""

from __future__ import annotations

import json
import uuid

import requests
from websockets.sync.client import connect

from tests.running_hub import RunningHub


def message(code: str) -> str:
    """A kernel protocol message that runs `code`."""
    header = {
        "msg_id": uuid.uuid4().hex,
        "msg_type": "execute_request",
        "username": "",
        "session": "s",
        "version": "5.3",
    }
    content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False}
    body = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
    return json.dumps(body)


def new_kernel(hub: RunningHub, user: str, token: str, server: str = "") -> str:
    """Start a kernel; the address of its WebSocket."""
    base = f"{hub.url}/user/{user}/{server}".rstrip("/")
    answer = requests.post(f"{base}/api/kernels", headers={"Authorization": f"token {token}"}, timeout=60)
    answer.raise_for_status()
    return f"{base}/api/kernels/{answer.json()['id']}/channels".replace("http", "ws", 1)


def run_script(hub: RunningHub, user: str, script: str, seconds: float = 90) -> tuple[int, str]:
    """A bash script in the user's container, run by that user; its exit code and all that it printed."""
    code = (
        "import json, subprocess\n"
        f"done = subprocess.run(['bash', '-c', {script!r}], capture_output=True, text=True, stdin=subprocess.DEVNULL)\n"
        "print('RESULT' + json.dumps([done.returncode, done.stdout + done.stderr]) + 'END')"
    )
    token = hub.user_token(user)
    address = new_kernel(hub, user, token)
    printed = ""
    with connect(address, additional_headers={"Authorization": f"token {token}"}, max_size=None) as socket:
        socket.send(message(code))
        while "END" not in printed:
            received = json.loads(socket.recv(timeout=seconds))
            if received.get("msg_type") == "stream":
                printed += received["content"]["text"]
            elif received.get("msg_type") == "error":
                raise AssertionError("\n".join(received["content"]["traceback"]))
    returncode, output = json.loads(printed.split("RESULT", 1)[1].rsplit("END", 1)[0])
    return int(returncode), str(output)
