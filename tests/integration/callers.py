# SPDX-License-Identifier: Apache-2.0
"""Who may call on the test machine: root, a plain user, and an administrator who sits at the console.

The administrator has a real session of logind's on seat0, which is active, and answers polkit's question for
the password through polkit's own agent for terminals.
"""

import json

from tests.integration.machine import Machine
from tests.integration.root_tree import ADMIN

Call = tuple[str, str, str, str, list[object]]
"""Object path, interface, method, signature and arguments of a call. The path begins with the service.

Names of files stand for file descriptors, which come first.
"""

CALLED = "called"

# Runs on the machine. Calls one method after the other; prints the errors' names, or CALLED.
_CALL = """
import asyncio, json, os, pty, sys, termios, threading, time
sys.path.insert(0, "/usr/lib/hypernet")
from common import bus
from common.errors import AgentError

def answer(terminal, password):
    said = b""
    while True:
        try:
            said += os.read(terminal, 1024)
        except OSError:
            return
        if said.rstrip().endswith(b"Password:"):
            # What is typed before the agent has switched the echo off is thrown away.
            while termios.tcgetattr(terminal)[3] & termios.ECHO:
                time.sleep(0.01)
            os.write(terminal, password.encode() + b"\\n")
            said = b""

def start_agent(password):
    ready, done = os.pipe()
    os.set_inheritable(done, True)
    caller = os.getpid()
    child, terminal = pty.fork()
    if child == 0:
        os.execv("/usr/bin/pkttyagent", ["pkttyagent", f"--process={caller}", f"--notify-fd={done}"])
    os.close(done)
    os.read(ready, 1)
    threading.Thread(target=answer, args=(terminal, password), daemon=True).start()
    return child

async def main(password, calls):
    interactive = password is not None
    child = start_agent(password) if interactive else 0
    results = []
    async with bus.connect(descriptors=True) as client:
        for path, interface, member, signature, arguments in calls:
            files = signature.count("h")
            arguments[:files] = [os.open(name, os.O_RDONLY) for name in arguments[:files]]
            service = ".".join(path.split("/")[1:4])
            try:
                await client.call(service, path, interface, member, signature, *arguments,
                                  interactive=interactive, timeout_sec=60)
                results.append("called")
            except AgentError as error:
                results.append(error.dbus_name)
    if child:
        os.kill(child, 15)
    print(json.dumps(results))

asyncio.run(main(*json.loads(sys.stdin.readline())))
"""


def call(
    machine: Machine, calls: list[Call], *, user: str = "root", password: str | None = None
) -> list[str]:
    """Make the calls; return CALLED or the name of the error for each.

    ADMIN calls from an active session. password: what is typed when polkit asks; None: nobody can be asked.
    """
    program = machine.root / "root/call.py"
    program.write_text(_CALL)
    program.chmod(0o644)
    program.parent.chmod(0o755)
    argv = ["/usr/bin/python3", "-I", "/root/call.py"]
    if user == ADMIN:
        argv = [*_session(), *argv]
    said = machine.output(*argv, user=user, stdin=json.dumps([password, calls]) + "\n", timeout_sec=120)
    results: list[str] = json.loads(said.splitlines()[-1])
    return results


def _session() -> list[str]:
    """The command that runs another one in a session of ADMIN at the console."""
    environment = "Environment=XDG_SEAT=seat0 XDG_SESSION_TYPE=tty XDG_SESSION_CLASS=user"
    run = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--property=PAMName=login"]
    return [*run, f"--property=User={ADMIN}", f"--property={environment}", "--"]
