# SPDX-License-Identifier: Apache-2.0
"""Alerts under a real systemd: from a failed unit to a receiver, across a reboot, at no cost otherwise."""

import email
import hashlib
import hmac
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest

from tests.integration.machine import Machine
from tests.integration.root_tree import USER
from tests.integration.slots import SlotDisk

SECRET = "a secret for the tests of alerts"
PORT = 9000
MAIL_PORT = 2525
CONFIG = f"""mail:
  to: [admin@example.org]
  kinds: [unit-failed]
webhooks:
  - url: http://127.0.0.1:{PORT}/hook
    secret_file: hook
"""
# sendmail(8) of the machine is msmtp.
MSMTP = f"""account default
host 127.0.0.1
port {MAIL_PORT}
from machine@example.org
"""
# As exim does it: the program ends before the mail is delivered, which takes longer than TimeoutStopSec=.
LATER_MAIL = """#!/bin/sh
cat > /var/spool/queue
(sleep 15; mv /var/spool/queue /var/spool/delivered) < /dev/null > /dev/null 2>&1 &
"""
RECEIVER = f"""import base64, http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open("/var/tmp/received", "a") as file:
            json.dump([dict(self.headers), body.decode()], file)
            file.write("\\n")
        self.send_response(204)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", {PORT}), Handler).serve_forever()
"""
CREDENTIAL = """[Service]
LoadCredential=hook:/config/hypernet/hook-secret
"""
OFTEN = """[Timer]
OnBootSec=
OnUnitInactiveSec=
OnActiveSec=1s
OnUnitInactiveSec=2s
AccuracySec=100ms
"""
SHOP = """[Unit]
OnFailure=hypernet-alert@%n.service
[Service]
ExecStart=/bin/sh -c 'exit 3'
"""
LATELY = 30.0


class Lab:
    """The machine with a receiver for webhooks in it, and a mail server whose mailbox is a Maildir."""

    def __init__(self, machine: Machine, mailbox: Path) -> None:
        self.machine = machine
        self.mailbox = mailbox

    def mails(self) -> list[EmailMessage]:
        """What the mail server got."""
        paths = sorted(self.mailbox.glob("new/*"))
        return [email.message_from_bytes(path.read_bytes(), policy=default) for path in paths]

    def listens(self, port: int) -> bool:
        return self.machine.run("bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}").returncode == 0

    def receive(self, *, on: bool) -> None:
        """Switch the receiver on or off."""
        unit = "--unit=receiver"
        if on:
            program = ["python3", "/usr/local/bin/receiver.py"]
            self.machine.output("systemd-run", unit, "--property=PrivateTmp=no", *program)
            wait_for(lambda: self.listens(PORT))
        else:
            self.machine.output("systemctl", "stop", "receiver.service")

    def received(self, kind: str) -> list[tuple[dict[str, str], str]]:
        """Headers and body of the requests about one kind of alert."""
        path = self.machine.root / "var/tmp/received"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines]
        return [(headers, body) for headers, body in found if json.loads(body)["kind"] == kind]

    def spool(self) -> list[dict[str, Any]]:
        folder = self.machine.root / "var/lib/hypernet/alerter/spool"
        return [json.loads(path.read_bytes()) for path in sorted(folder.glob("*.json"))]

    def let_time_pass(self) -> None:
        """As if the time to the next attempt had gone by."""
        for path in (self.machine.root / "var/lib/hypernet/alerter/spool").glob("*.json"):
            path.write_text(json.dumps(json.loads(path.read_bytes()) | {"next_usec": 0}), encoding="utf-8")

    def property(self, unit: str, name: str) -> str:
        return self.machine.output("systemctl", "show", "--value", f"--property={name}", unit)


def wait_for(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LATELY
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def lab(machine: Machine, slot_disk: SlotDisk, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    files = {
        "etc/msmtprc": MSMTP,
        "usr/local/bin/later-mail": LATER_MAIL,
        "usr/local/bin/receiver.py": RECEIVER,
        "etc/systemd/system/hypernet-alerter.service.d/credential.conf": CREDENTIAL,
        "etc/systemd/system/hypernet-alerter.timer.d/often.conf": OFTEN,
        "etc/systemd/system/shop.service": SHOP,
    }
    for name, text in files.items():
        path = machine.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
    (machine.config / "hypernet/alerts.yaml").write_text(CONFIG, encoding="utf-8")
    secret = machine.config / "hypernet/hook-secret"
    secret.write_text(SECRET, encoding="utf-8")
    secret.chmod(0o600)
    assert slot_disk.boot_loader() == "a"
    machine.boot()
    lab = Lab(machine, tmp_path_factory.mktemp("mail") / "mailbox")
    # Until the first reboot of the machine: it is in its network.
    mail_server = ["nsenter", f"--target={machine.leader}", "--net", sys.executable, "-m", "aiosmtpd"]
    mail_server += ["--nosetuid", "--listen", f"127.0.0.1:{MAIL_PORT}"]
    mail_server += ["--class", "aiosmtpd.handlers.Mailbox", str(lab.mailbox)]
    with subprocess.Popen(mail_server) as process:
        try:
            wait_for(lambda: lab.listens(MAIL_PORT))
            yield lab
        finally:
            process.terminate()
    if machine.running:
        machine.stop()
    for name in [*files, "var/tmp/received", "var/spool/delivered"]:
        (machine.root / name).unlink(missing_ok=True)


def test_without_alerts_no_program_of_the_alerter_is_ever_started(lab: Lab) -> None:
    assert lab.property("hypernet-alerter.path", "ActiveState") == "active"
    wait_for(lambda: lab.property("hypernet-alerter.service", "ConditionTimestampMonotonic") != "0")

    assert lab.spool() == []
    assert lab.property("hypernet-alerter.service", "ConditionResult") == "no"
    assert lab.property("hypernet-alerter.service", "ExecMainStartTimestampMonotonic") == "0"


def test_a_test_reaches_the_receiver_and_its_signature_holds(lab: Lab) -> None:
    lab.receive(on=True)

    lab.machine.output("systemctl", "start", "hypernet-alert@test")

    wait_for(lambda: lab.received("test"))
    ((headers, body),) = lab.received("test")
    signed = f"{headers['X-Hypernet-Timestamp']}.{body}".encode()
    digest = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert headers["X-Hypernet-Signature"] == f"sha256={digest}"
    wait_for(lambda: not lab.spool())


def test_a_unit_that_fails_is_told_by_mail_and_webhook(lab: Lab) -> None:
    lab.machine.output("systemctl", "start", "shop.service")

    wait_for(lambda: lab.received("unit-failed") and len(lab.mails()) == 2)
    ((_, body),) = lab.received("unit-failed")
    alert = json.loads(body)
    assert alert["summary"] == "The unit shop.service has failed (exit-code)."
    details = alert["details"]
    assert (details["unit"], details["exit"], details["status"]) == ("shop.service", "exited", "3")
    assert len(details["invocation"]) == 32
    mail = lab.mails()[-1]
    assert mail["Subject"].endswith("unit-failed: The unit shop.service has failed (exit-code).")
    assert (mail["To"], mail["X-MailFrom"]) == ("admin@example.org", "machine@example.org")
    wait_for(lambda: not lab.spool())
    lab.machine.output("systemctl", "reset-failed", "shop.service")


def test_the_same_is_not_told_again_at_once_but_when_the_time_is_over(lab: Lab) -> None:
    before = len(lab.received("unit-failed"))

    lab.machine.output("systemctl", "start", "shop.service")

    told = "journalctl --identifier=hypernet-alerter --grep='short time ago: The unit shop.service'"
    wait_for(lambda: lab.machine.run("sh", "-c", told).returncode == 0)
    lab.machine.output("systemctl", "reset-failed", "shop.service")
    lab.machine.output("systemctl", "start", "shop.service")
    wait_for(lambda: [entry["repeats"] for entry in lab.spool()] == [1])
    assert len(lab.received("unit-failed")) == before
    lab.machine.output("systemctl", "reset-failed", "shop.service")

    lab.let_time_pass()

    wait_for(lambda: len(lab.received("unit-failed")) == before + 1)
    assert json.loads(lab.received("unit-failed")[-1][1])["repeats"] == 1
    wait_for(lambda: not lab.spool())


def test_a_mail_system_that_delivers_after_its_program_has_ended_is_not_killed(lab: Lab) -> None:
    config = lab.machine.config / "hypernet/alerts.yaml"
    config.write_text("mail: {to: [root], sendmail: /usr/local/bin/later-mail}", encoding="utf-8")

    lab.machine.output("systemctl", "start", "hypernet-alert@test")

    wait_for(lambda: (lab.machine.root / "var/spool/delivered").exists())
    config.write_text(CONFIG, encoding="utf-8")


def test_a_disk_that_is_read_only_does_not_keep_an_alert_from_being_told_once(lab: Lab) -> None:
    before = len(lab.received("test"))
    folder = "/var/lib/hypernet/alerter"
    lab.machine.output("mount", "-t", "tmpfs", "-o", "ro,mode=0700", "tmpfs", folder)

    lab.machine.output("systemctl", "start", "hypernet-alert@test")

    wait_for(lambda: len(lab.received("test")) == before + 1)
    told = "journalctl --identifier=hypernet-alerter --grep='Alerts are kept in /run/hypernet/alerter only'"
    wait_for(lambda: lab.machine.run("sh", "-c", told).returncode == 0)
    time.sleep(5)  # the timer starts it every two seconds
    assert len(lab.received("test")) == before + 1
    lab.machine.output("umount", "--lazy", folder)


def test_a_failed_update_is_told(lab: Lab) -> None:
    name, path = "io.hypernet.SlotManager1", "/io/hypernet/SlotManager1"

    lab.machine.output("busctl", "call", name, path, name, "Install", "sa{sv}", "/missing.img", "0")

    wait_for(lambda: lab.received("update-failed"))
    ((_, body),) = lab.received("update-failed")
    assert json.loads(body)["details"]["source"] == "/missing.img"
    assert json.loads(body)["summary"].startswith("An update could not be installed: ")


def test_what_cannot_be_delivered_is_in_the_journal_and_no_failed_unit(lab: Lab) -> None:
    lab.receive(on=False)

    lab.machine.output("systemctl", "start", "hypernet-alert@test")

    told = "journalctl MESSAGE_ID=9e8d94fb6ce148d4a98e4c4c612956e7 --grep='Connection refused'"
    wait_for(lambda: lab.machine.run("sh", "-c", told).returncode == 0)
    wait_for(lambda: lab.property("hypernet-alerter.service", "ActiveState") == "inactive")
    assert [entry["attempts"] for entry in lab.spool()] == [1]
    assert "hypernet-alert" not in lab.machine.output("systemctl", "--failed", "--plain", "--no-legend")


def test_it_is_delivered_after_a_reboot(lab: Lab, slot_disk: SlotDisk) -> None:
    before = len(lab.received("test"))
    lab.machine.stop()
    slot_disk.boot_loader()
    lab.machine.boot()

    lab.receive(on=True)

    lab.let_time_pass()
    wait_for(lambda: len(lab.received("test")) == before + 1)
    wait_for(lambda: not lab.spool())


def test_an_alert_that_is_raised_just_before_a_reboot_is_not_lost(lab: Lab, slot_disk: SlotDisk) -> None:
    before = len(lab.received("test"))
    lab.machine.output("sh", "-c", "/usr/lib/hypernet/alerter test; systemctl --no-block reboot")
    lab.machine.wait_for_reboot()
    slot_disk.boot_loader()
    lab.machine.boot()

    lab.receive(on=True)
    lab.let_time_pass()

    wait_for(lambda: len(lab.received("test")) == before + 1)


def test_only_root_sees_alerts(lab: Lab) -> None:
    for path in ("/run/hypernet/alerts", "/var/lib/hypernet/alerter"):
        assert lab.machine.run("ls", path, user=USER).returncode != 0
