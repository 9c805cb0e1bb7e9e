"""NVIDIA XID errors: number, meaning, the catalogue's immediate action, and the recommended action we make of it.

Source: NVIDIA's XID catalogue as generated on 2025-10-29 (172 codes); DCGM's own severities differ and stand in `DCGM_FAIL`.
"""

from __future__ import annotations

from dataclasses import dataclass

CATALOGUE = "NVIDIA XID catalogue, generated 2025-10-29"


@dataclass(frozen=True)
class XidCode:
    """One XID. `catalogue`: NVIDIA's immediate action, as written; `action`: the same in the enumeration that triggers use
    (NONE, COMPONENT_RESET, CONTACT_SUPPORT, RUN_FIELDDIAG, RESTART_VM, RESTART_BM, REPLACE_VM, RUN_DCGMEUD, RESTART_APP, UNKNOWN)."""

    number: int
    catalogue: str
    action: str
    meaning: str = ""
    source: str = CATALOGUE


ACTIONS = {
    "RESET_GPU": "COMPONENT_RESET", "RESTART_BM": "RESTART_BM", "RESTART_VM": "RESTART_VM", "CONTACT_SUPPORT": "CONTACT_SUPPORT",
    "CHECK_MECHANICALS": "CONTACT_SUPPORT", "UPDATE_SWFW": "UNKNOWN", "CHECK_UVM": "RESTART_APP", "WORKFLOW": "RUN_DCGMEUD",
    "IGNORE": "NONE", "RESTART_APP": "RESTART_APP", "NONE_GIVEN": "UNKNOWN",
}  # fmt: skip
"""The catalogue's actions in NVSentinel's enumeration. A WORKFLOW needs a diagnosis before anything else."""

NUMBERS: dict[str, tuple[int | range, ...]] = {
    "RESET_GPU": (46, 62, 64, 95, 109, 110, 119, 120, 136, 140, 143, 155, 156, 158),
    "RESTART_BM": (79,),
    "RESTART_VM": (151,),
    "CONTACT_SUPPORT": (142,),
    "CHECK_MECHANICALS": (54,),
    "UPDATE_SWFW": (78,),
    "CHECK_UVM": (159,),
    "WORKFLOW": (45, 48, 74, range(144, 151), 154),
    "IGNORE": (37, 38, 43, 44, 63, 66, 67, 92, 93, 106, 107, 121, 137, 141, 152, 153, 157, 160, 161),
    "RESTART_APP": (
        8, 11, 13, 25, 31, 32, range(39, 42), 60, range(68, 73), range(75, 78), 80, range(82, 87), 88, 89, 94, range(96, 106),
        range(126, 136), 139,
    ),
    "NONE_GIVEN": (range(162, 173),),
}  # fmt: skip

MEANINGS = {
    8: "GPU stopped processing", 13: "Graphics engine exception", 31: "GPU memory page fault",
    32: "Invalid or corrupted push buffer stream",
    38: "Driver firmware error", 43: "GPU stopped processing", 44: "Graphics engine fault during context switch",
    45: "Preemptive clean-up, due to previous errors", 46: "GPU stopped processing", 48: "Double-bit ECC error",
    54: "Auxiliary power is not connected to the GPU board", 62: "Internal micro-controller halt",
    63: "ECC page retirement or row remapping recorded", 64: "ECC page retirement or row remapping could not be recorded",
    66: "Illegal access by driver", 68: "NVDEC0 exception", 69: "Graphics engine class error", 74: "NVLink error", 78: "vGPU start error",
    79: "GPU has fallen off the bus", 92: "High single-bit ECC error rate", 94: "Contained ECC error", 95: "Uncontained ECC error",
    109: "Context switch timeout", 110: "Security fault", 119: "GSP RPC timeout", 120: "GSP error", 121: "C2C link corrected error",
    140: "Unrecovered ECC error", 143: "GPU initialisation failure", 144: "NVLink: SAW error", 145: "NVLink: RLW error",
    146: "NVLink: TLW error", 147: "NVLink: TREX error", 148: "NVLink: NVLPW_CTRL error", 149: "NVLink: NETIR error",
    150: "NVLink: MSE error", 154: "GPU recovery action changed", 155: "NVLink: software-defined error",
    156: "Resource retirement event", 157: "Resource retirement failure",
}  # fmt: skip

DCGM_FAIL = frozenset({48, 74, 79, 95, 119, 120, 140})
"""What DCGM's health watches call devastating; 94 is a warning there."""

XID: dict[int, XidCode] = {
    number: XidCode(number, catalogue, ACTIONS[catalogue], MEANINGS.get(number, ""))
    for catalogue, listed in NUMBERS.items()
    for item in listed
    for number in (item if isinstance(item, range) else (item,))
}
"""The catalogue by number.

>>> XID[79].action, XID[79].meaning
('RESTART_BM', 'GPU has fallen off the bus')
"""
