"""sanlock's own result codes (spec A 14): which of them were told, by both daemons, and why the others cannot be.

A code that is neither told nor listed fails a whole run, and so does one that is listed and told.
"""

import collections
import re

OWN = {
    -201: "general error", -202: "i/o timeout", -203: "watchdog device error", -210: "read error in dblock",
    -211: "write error in dblock", -212: "acquired by another host in new ballot",
    -213: "acquired by another host in current ballot", -214: "checksum error in dblock", -220: "read error in leader",
    -221: "write error in leader", -222: "leaders read are inconsistent", -223: "lease does not exist",
    -224: "version not recognized", -225: "sector size inconsistent", -226: "lockspace name incorrect",
    -227: "resource name incorrect", -228: "num_hosts incorrect", -229: "checksum error in leader", -230: "add: sizes",
    -231: "add: invalid host_id", -240: "acquire: lver", -241: "lockspace not found",
    -242: "lockspace disk cannot be opened",
    -243: "held by another host", -244: "acquired by another host in other ballot", -245: "in local commit",
    -246: "held by another host for shared acquire", -247: "owned by another host", -250: "release: version",
    -251: "release: owner", -260: "renew: owner", -261: "renew: data", -262: "host_id used by another host",
    -270: "request block: data", -271: "request block: version", -272: "request: lease is newer",
    -273: "request: block is newer", -274: "index: magic", -275: "index: version", -276: "index: lockspace",
    -277: "index: offset", -278: "index: another entry",
}

RETRIED = "a ballot that was outrun is tried again by both: no client is told (spec D 7)"
UNPROVOKED = {
    -203: "sanlock without wdmd; ours does not begin to serve without it (with it: tests/interop/real_wdmd.py)",
    -210: "an error of the device is told with its own number (everything_that_a_disk_that_fails_refuses)",
    -212: RETRIED,
    -213: RETRIED,
    -220: "an error of the device is told with its own number (everything_that_a_disk_that_fails_refuses)",
    -221: "a device that takes the block of a ballot, and then not the leader",
    -222: "leases on several disks, which ours does not serve where sanlock formatted; not seen with sanlock either",
    -241: "an unknown lockspace is ENOSPC: acquire_without_a_lockspace",
    -242: "a lockspace whose disk cannot be opened is ENODEV: add_refused",
    -244: "takes a ballot that is outrun, and the leader of whoever won before the next one: writes within one ballot of ours",
    -260: "a renewal's: no reply has it, but STATUS (status_of_a_lockspace_that_is_lost)",
    -261: "as -260",
}

TOLD = re.compile(r"\w\.\d+ < \S+ flags=\S+ length=\d+ seq=\d+ result=(-\d+) ")


def told(transcripts):
    """{code: how often} of one side's transcripts, errnos among them."""
    lines = (line for script in transcripts.values() for line in script)
    return collections.Counter(int(found.group(1)) for found in map(TOLD.match, lines) if found)


def told_by_both(transcripts):
    """{code: how often}, the lowest numbers last; a code counts as often as the side that told it less."""
    both = told(transcripts["real"]) & told(transcripts["ours"])
    return dict(sorted(both.items(), reverse=True))


def judge(both):
    """Prints what is wrong with UNPROVOKED; how much that is."""
    missing = [code for code in OWN if code not in both and code not in UNPROVOKED]
    wrong = [f"{code} ({OWN[code]}) is neither told nor listed" for code in missing]
    wrong += [f"{code} is listed as not to be provoked, and was told" for code in UNPROVOKED if code in both]
    wrong += [f"{code} is told, and not known" for code in both if code <= -200 and code not in OWN]
    for line in wrong:
        print(f"--- {line}")
    return len(wrong)
