# SPDX-License-Identifier: Apache-2.0
"""Two sets of trusted keys, the machine's and the vendor's, made of a few real keys with names."""

from __future__ import annotations

from pathlib import Path

from common import trust
from tests.fakes.slot_images import Key, make_key

NAMES = ("old", "new", "own", "lost")
Keys = dict[str, tuple[Key, bytes]]
"""Keys by name, each with its armoured public key."""


def make_keys(home: Path) -> Keys:
    made = {name: make_key(home, name) for name in NAMES}
    return {name: (key, key.public()) for name, key in made.items()}


class Sets:
    """The machine's folder and the vendor's."""

    def __init__(self, keys: Keys, folder: Path) -> None:
        self.machine = folder / "machine"
        self.vendor = folder / "vendor"
        self.keys = {name: key for name, (key, _) in keys.items()}
        self._public = {name: public for name, (_, public) in keys.items()}

    def write(
        self, folder: Path, *names: str, epoch: int = 1, threshold: int = 1, revoked: tuple[str, ...] = ()
    ) -> None:
        """A set of the keys named so; "local:NAME" is a local one. Each key lies in a file of its own."""
        folder.mkdir(exist_ok=True)
        lines = [f"epoch: {epoch}", f"threshold: {threshold}"]
        lines.append("fingerprints:" if names else "fingerprints: []")
        for name in names:
            local, name = name.startswith("local:"), name.removeprefix("local:")
            (folder / f"{name}.asc").write_bytes(self._public[name])
            lines.append(f'  - fingerprint: "{self.fingerprint(name)}"')
            lines.append(f"    purpose: release\n    local: {'yes' if local else 'no'}")
        if revoked:
            lines.append("revoked:")
            lines += [f'  - "{self.fingerprint(name)}"' for name in revoked]
        (folder / "fingerprints.yaml").write_text("\n".join(lines) + "\n")

    def public(self, name: str) -> bytes:
        return self._public[name]

    def fingerprint(self, name: str) -> str:
        return self.keys[name].fingerprint

    def load(self, min_epoch: int = 0) -> trust.TrustStore:
        return trust.load(self.machine, vendor=self.vendor, min_epoch=min_epoch)

    def trusted(self, store: trust.TrustStore | None = None) -> set[str]:
        """Names of the keys that may sign releases now."""
        found = (store or self.load()).fingerprints("release")
        return {name for name in self.keys if self.fingerprint(name) in found}
