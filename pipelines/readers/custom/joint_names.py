"""The joints that a user's file names, renamed as `--joints` says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pipelines.errors import UsageError
from spin.joint_names import joint_index, known_names
from spin.joints import JOINTS

UNUSED = -1


def parse_renames(text: str | None) -> dict[str, str]:
    """Return `--joints "knee1=left knee,tail="` as a dictionary; raise UsageError if it is anything else."""
    out: dict[str, str] = {}
    for item in filter(None, (part.strip() for part in (text or "").split(","))):
        theirs, separator, ours = (part.strip() for part in item.partition("="))
        if not separator or not theirs:
            raise UsageError(
                f"--joints {item!r}: expected YOURS=JOINT, or YOURS= to leave it out, separated by commas; for "
                'example "knee1=left knee,tail="'
            )
        if ours and joint_index(ours) is None:
            raise UsageError(f"--joints {item!r}: no joint is called {ours!r}; there are: {known_names()}")
        out[theirs] = ours
    return out


def resolve(names: Iterable[str], renames: Mapping[str, str], where: str) -> tuple[int, ...]:
    """Return the index of each name among the 49, UNUSED for what `renames` drops.

    Raise UsageError, with `where` and what to do, if a name is unknown, or two mean the same joint.
    """
    out: list[int] = []
    unknown: list[str] = []
    owner: dict[int, str] = {}
    # However a joint is spelt: "left hip=right hip" renames left_hip, too.
    spelt = {joint_index(theirs): ours for theirs, ours in renames.items()}
    for name in names:
        same = joint_index(name)
        ours = renames.get(name, name if same is None else spelt.get(same, name))
        place = joint_index(ours) if ours else UNUSED
        if place is None:
            unknown.append(name)
            continue
        if place != UNUSED and place in owner:
            raise UsageError(
                f'{where}: {owner[place]!r} and {name!r} are both {JOINTS.names[place]}; leave one out: --joints "{name}="'
            )
        owner[place] = name
        out.append(place)
    if unknown:
        listed = ", ".join(map(repr, unknown[:8])) + (f" and {len(unknown) - 8} more" if unknown[8:] else "")
        raise UsageError(
            f"{where}: no joint is called {listed}; say which it is, or leave it out: "
            f'--joints "{unknown[0]}=left knee" or "{unknown[0]}="; there are: {known_names()}'
        )
    return tuple(out)
