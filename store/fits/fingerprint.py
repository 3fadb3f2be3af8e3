"""The fingerprint: the conditions under which scores can be compared."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

from store.errors import FingerprintMismatchError, FormatVersionError

_TITLES = {
    "body": "body model",
    "objective": "objective",
    "score_rule": "score rule",
    "annotations": "annotations",
}


@dataclass(frozen=True)
class Fingerprint:
    """The conditions under which fits were scored, each as 'name:hash'.

    body: the body model; objective: what the fitter minimised; score_rule: how two fits are compared;
    annotations: the samples and their keypoints.
    """

    body: str
    objective: str
    score_rule: str
    annotations: str

    def to_json(self) -> dict[str, str]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: object, *, where: str) -> Fingerprint:
        """Return the fingerprint in a JSON object. Raises FormatVersionError, naming `where`, if a part is missing."""
        names = [field.name for field in fields(cls)]
        if not isinstance(value, dict) or any(not isinstance(value.get(name), str) for name in names):
            raise FormatVersionError(f"{where}: the fingerprint must have {', '.join(names)}; found {value!r}")
        return cls(**{name: value[name] for name in names})

    def to_text(self) -> str:
        return json.dumps(self.to_json(), sort_keys=True)

    def differences(self, other: Fingerprint) -> dict[str, tuple[str, str]]:
        """Return the parts that differ: name -> (this one's value, the other's)."""
        pairs = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def require_same(stored: Fingerprint, wanted: Fingerprint, *, where: str) -> None:
    """Raise FingerprintMismatchError with the parts that differ, both values, and what to run, unless all parts are equal."""
    different = stored.differences(wanted)
    if different:
        parts = "; ".join(f"{_TITLES[name]}: stored {mine!r}, now {theirs!r}" for name, (mine, theirs) in different.items())
        raise FingerprintMismatchError(
            f"{where}: scores were made under other conditions and can't be compared ({parts}); go back "
            "to the stored conditions, or keep both: preprocess under another name, or use another data folder, "
            "and run `spin-pipe fit-static` there"
        )
