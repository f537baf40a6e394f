"""Which artifacts a deployment loads at all."""

import json
from pathlib import Path
from typing import NamedTuple

from app.settings import Settings
from models.artifact import MANIFEST_FILE
from models.manifest import Manifest
from models.signing import SignatureError, check_signature


class Trust(NamedTuple):
    """What a deployment's settings say of artifacts.

    Attributes:
        pickled: whether pickles are loaded: loading one runs what is in it.
        keys: public keys, one of which must have signed a manifest; none: no signature is needed.
    """

    pickled: bool = False
    keys: tuple[str, ...] = ()

    def check(self, folder: Path, manifest: Manifest) -> None:
        """Refuse an artifact whose manifest is not signed as it must be.

        Args:
            folder: the artifact.
            manifest: what was read from it, and is to be loaded.

        Raises:
            SignatureError: it is not.
        """
        if not self.keys:
            return
        model = f"{manifest.name}@{manifest.version}"
        try:
            told = json.loads((folder / MANIFEST_FILE).read_bytes())
            check_signature(told, model, self.keys)
            # what was signed is what was read before
            changed = Manifest.model_validate(told) != manifest
        except (OSError, ValueError, TypeError, LookupError) as error:
            msg = f"the manifest of model {model} cannot be read again: {error}"
            raise SignatureError(" ".join(msg.split())) from error
        if changed:
            msg = f"the manifest of model {model} in {folder} has just changed: try again"
            raise SignatureError(msg)

    def accepts(self, folder: Path, manifest: Manifest) -> bool:
        """Whether `check` accepts an artifact."""
        try:
            self.check(folder, manifest)
        except SignatureError:
            return False
        return True


def trust_of(settings: Settings) -> Trust:
    """What a deployment trusts."""
    return Trust(settings.allow_pickled_models, settings.model_keys)
