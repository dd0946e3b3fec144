"""Files that are old or new as a whole at every moment, whenever the process that writes them is killed."""

from refold.files._drafts import clear_strays, drafting
from refold.files._locks import locked
from refold.files._replacing import drafted, replacing, spare
from refold.files._switch import Side, Switch, digest_of, make_switch, replace_file, standing, switch_files

__all__ = [
    "Side",
    "Switch",
    "clear_strays",
    "digest_of",
    "drafted",
    "drafting",
    "locked",
    "make_switch",
    "replace_file",
    "replacing",
    "spare",
    "standing",
    "switch_files",
]
