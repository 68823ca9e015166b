//! The kernel's OOM killer. A daemon that it ends takes its host down by the watchdog, and frees next to nothing.
//! Source: proc_pid_oom_score_adj(5).

use std::fs;
use std::io;

/// Never chosen.
const NEVER: &str = "-1000";
/// Chosen by its size alone.
const BY_SIZE: &str = "0";

/// Keeps the OOM killer from this process, where the system grants it. What it starts inherits that.
pub fn spare_us() {
    if let Err(error) = set("self", NEVER) {
        tracing::info!(%error, "the OOM killer may choose this daemon: it takes CAP_SYS_RESOURCE, or OOMScoreAdjust of its unit");
    }
}

/// Lets the OOM killer choose a process that we have started, like any other.
pub fn may_choose(pid: u32) {
    if let Err(error) = set(&pid.to_string(), BY_SIZE) {
        tracing::debug!(%error, pid, "it keeps this daemon's protection from the OOM killer");
    }
}

fn set(process: &str, score: &str) -> io::Result<()> {
    fs::write(format!("/proc/{process}/oom_score_adj"), score)
}
