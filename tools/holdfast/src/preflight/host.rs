//! The host itself: its clock, whether it sleeps, what the kernel tells of connections, whether memory can be locked.

use holdfast_daemon::sock_diag;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::finding::Finding;
use super::machine::Machine;

/// Looks at it.
pub fn look(machine: &Machine) -> Vec<Finding> {
    let mut findings = vec![clock_source(machine)];
    findings.extend(suspend(machine));
    findings.push(match sock_diag::answers() {
        Ok(()) => Finding::ok("unix_diag", "the kernel tells which processes share a connection"),
        Err(why) => {
            Finding::fail("unix_diag", why, "without it no client can be guarded, and every acquire is refused")
        }
    });
    findings.push(locked_memory(machine));
    findings
}

const SOURCE: &str = "devices/system/clocksource/clocksource0";

/// A4: the clocks of two hosts may run apart by 500 ppm each.
fn clock_source(machine: &Machine) -> Finding {
    const WHAT: &str = "clock source";
    let Some(current) = machine.sys.text(format!("{SOURCE}/current_clocksource")) else {
        return Finding::warn(
            WHAT,
            "not told by this kernel",
            "see to it that it is one of the hardware's own (dmesg)",
        );
    };
    match current.as_str() {
        "tsc" | "kvm-clock" | "arch_sys_counter" | "timebase" | "tod" | "hyperv_clocksource_tsc_page" | "xen" => {
            Finding::ok(WHAT, current)
        }
        "jiffies" | "refined-jiffies" => Finding::fail(
            WHAT,
            format!("{current}: the kernel counts timer interrupts, and loses time with each that comes late"),
            "clocks of hosts may run apart by 500 ppm and no more (A4 of docs/safety.md): find out why it takes no other (dmesg)",
        ),
        _ => Finding::warn(
            WHAT,
            format!(
                "{current}, which is slow to read, and is mostly taken where the kernel has found the TSC unstable"
            ),
            "it keeps to a few ppm as a rule; look in dmesg why tsc was given up: an unstable one has run apart by more than 500 ppm (A4)",
        ),
    }
}

/// Suspended, a host counts time and no watchdog: others take over, and it wakes with what it was about to write (A7).
fn suspend(machine: &Machine) -> Option<Finding> {
    const WHAT: &str = "suspend";
    let states = machine.sys.text("power/state").unwrap_or_default();
    let sleeps: Vec<&str> =
        states.split_whitespace().filter(|state| ["mem", "disk", "standby"].contains(state)).collect();
    if sleeps.is_empty() {
        return Some(Finding::ok(WHAT, "this kernel cannot suspend the host to memory or disk"));
    }
    let units = ["sleep.target", "suspend.target", "hibernate.target", "hybrid-sleep.target"];
    let is_masked = |unit: &&str| {
        machine
            .etc
            .place(format!("systemd/system/{unit}"))
            .is_some_and(|place| place == std::path::Path::new("/dev/null"))
    };
    if is_masked(&units[0]) || units[1..].iter().all(is_masked) {
        return Some(Finding::ok(WHAT, "masked in systemd"));
    }
    Some(Finding::warn(
        WHAT,
        format!(
            "possible ({}): a host that sleeps counts time and no watchdog, and is taken over from",
            sleeps.join(", ")
        ),
        format!("`systemctl mask {}`", units.join(" ")),
    ))
}

/// CAP_IPC_LOCK, as a bit of `CapEff`.
const IPC_LOCK: u64 = 1 << 14;

/// The daemon locks its memory, so that a renewal does not wait for a page.
fn locked_memory(machine: &Machine) -> Finding {
    const WHAT: &str = "locked memory";
    let status = machine.proc.text("self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    if effective.is_some_and(|bits| bits & IPC_LOCK != 0) {
        return Finding::ok(WHAT, "may be locked (CAP_IPC_LOCK)");
    }
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((RLIM_INFINITY, _)) => Finding::ok(WHAT, "may be locked, without a limit"),
        limit => Finding::warn(
            WHAT,
            limit.map_or_else(|e| e.to_string(), |(soft, _)| format!("{soft} bytes at most, for who has run this")),
            "start the daemon as root, or with LimitMEMLOCK=infinity: under memory pressure its renewals would be late",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Grade;
    use super::super::machine::tests::machine;
    use super::*;

    const CLOCK: &str = "sys/devices/system/clocksource/clocksource0/current_clocksource";

    #[test]
    fn a_clock_that_counts_interrupts_fails_and_a_slow_one_is_worth_a_look() {
        for (source, grade) in [
            ("tsc", Grade::Ok),
            ("kvm-clock", Grade::Ok),
            ("hpet", Grade::Warn),
            ("acpi_pm", Grade::Warn),
            ("refined-jiffies", Grade::Fail),
        ] {
            let (_root, machine) = machine(&[(CLOCK, source)]);
            let found = clock_source(&machine);
            assert_eq!(found.grade, grade, "{found}");
            assert!(found.to_string().contains(source), "{found}");
        }
        assert_eq!(clock_source(&machine(&[]).1).grade, Grade::Warn);
    }

    #[test]
    fn a_host_that_can_be_suspended_is_told_how_not_to() {
        let (_root, awake) = machine(&[("sys/power/state", "freeze")]);
        assert_eq!(suspend(&awake).unwrap().grade, Grade::Ok);
        let (root, sleepy) = machine(&[("sys/power/state", "freeze mem disk"), ("etc/systemd/system/x", "")]);
        let found = suspend(&sleepy).unwrap();
        assert_eq!(found.grade, Grade::Warn);
        assert!(
            found.to_string().contains("possible (mem, disk)")
                && found.to_string().contains("systemctl mask sleep.target")
        );
        std::os::unix::fs::symlink("/dev/null", root.path().join("etc/systemd/system/sleep.target")).unwrap();
        assert_eq!(suspend(&sleepy).unwrap().to_string(), "ok    suspend: masked in systemd");
    }

    #[test]
    fn memory_is_locked_by_capability_or_by_limit() {
        let (_root, root_of) = machine(&[("proc/self/status", "Name:\tx\nCapEff:\t000001ffffffffff\n")]);
        assert_eq!(locked_memory(&root_of).to_string(), "ok    locked memory: may be locked (CAP_IPC_LOCK)");
        let (_root, other) = machine(&[("proc/self/status", "CapEff:\t0000000000000000")]);
        let limited = getrlimit(Resource::RLIMIT_MEMLOCK).is_ok_and(|(soft, _)| soft != RLIM_INFINITY);
        assert_eq!(locked_memory(&other).grade == Grade::Warn, limited);
    }
}
