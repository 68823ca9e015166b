//! What a failover takes at this site: the instants of [`Timing`], for each way in which an owner can be lost.

use std::fmt;
use std::time::Duration;

use holdfast_daemon::config::Config;
use holdfast_daemon::watchdog::most_seconds;
use holdfast_io::timing::{FireTimeout, Timing, Wdmd};
use serde::Serialize;

use crate::client_cmd::{table, time};

/// Of one kind of fault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Way {
    /// What happens to the owner.
    fault: &'static str,
    /// From then on another host may have its leases: at the earliest.
    earliest_ms: u64,
    /// And this is when it has them.
    latest_ms: u64,
    /// Why.
    why: String,
}

/// What a failover takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failover {
    io_timeout_s: u8,
    /// Within which a failed host is reset, as it is judged by others.
    fire_timeout_s: u8,
    has_watchdog: bool,
    /// What the device counts; unknown under wdmd and without a device.
    device_s: Option<u32>,
    /// D2: from its last good renewal on, until nothing is protected any more.
    id_renewal_fail_ms: u64,
    /// And until the host is reset.
    host_dead_ms: u64,
    /// The silence that another host must have seen before it takes over.
    silence_for_takeover_ms: u64,
    ways: Vec<Way>,
}

impl Failover {
    /// At a site that is configured so.
    pub fn of(config: &Config) -> Self {
        let (has_watchdog, wdmd) = (config.watchdog != "none", config.watchdog == "wdmd");
        let fire = match (has_watchdog, wdmd) {
            (true, false) => config.fire_timeout,
            (true, true) => Wdmd::FIRE,
            (false, _) => FireTimeout::SANLOCK,
        };
        let timing = Timing::new(config.io_timeout, fire);
        Failover {
            io_timeout_s: config.io_timeout.seconds(),
            fire_timeout_s: fire.seconds(),
            has_watchdog,
            device_s: (has_watchdog && !wdmd).then(|| most_seconds(fire).0),
            id_renewal_fail_ms: ms(timing.id_renewal_fail()),
            host_dead_ms: ms(timing.host_dead()),
            silence_for_takeover_ms: ms(timing.silence_for_takeover()),
            ways: ways(timing, config.kill_grace),
        }
    }
}

/// Silence counts from the last renewal that the taker has seen. The owner's latest is up to one interval old when it fails, and the taker looks
/// once in an interval as well.
fn ways(timing: Timing, grace: Duration) -> Vec<Way> {
    let (silence, interval) = (timing.silence_for_takeover(), timing.renewal_interval());
    let silent = |fault, why: String| Way {
        fault,
        earliest_ms: ms(silence.saturating_sub(interval)),
        latest_ms: ms(silence + interval),
        why,
    };
    let at_once =
        |fault, why: &str| Way { fault, earliest_ms: 0, latest_ms: ms(timing.io_deadline()), why: why.into() };
    let fails = timing.id_renewal_fail();
    vec![
        at_once("its program ends", "the lease is given back; whoever waits for it has it a moment later"),
        at_once("the host is shut down in good order", "leases and host_id are given back"),
        silent("power cut, or a kernel that hangs", "nothing is given back: its silence is waited out".to_owned()),
        silent(
            "its storage hangs or fails",
            format!(
                "after {} without a renewal what it guards is ended, SIGKILL after {} more; by {} it is reset if that did not end",
                time(ms(fails)),
                time(ms(grace)),
                time(ms(timing.host_dead()))
            ),
        ),
        silent(
            "its daemon dies, and none is started",
            "its watchdog is petted no more; a daemon that is started again in time ends what was guarded and gives it back at once".to_owned(),
        ),
        Way {
            fault: "power cut, and an operator says so",
            earliest_ms: ms(interval),
            latest_ms: ms(interval + timing.io_deadline()),
            why: "`holdfast confirm-dead`, once it has missed a renewal".to_owned(),
        },
    ]
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Display for Failover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failover { io_timeout_s, fire_timeout_s, .. } = self;
        writeln!(
            f,
            "A failover at this site, with an io_timeout of {io_timeout_s} s and a fire timeout of {fire_timeout_s} s:"
        )?;
        if !self.has_watchdog {
            writeln!(f, "THERE IS NO WATCHDOG: others wait as if this host were reset, and nothing resets it.")?;
        }
        let device = match self.device_s {
            Some(seconds) => format!(" (the device counts at most {seconds} s)"),
            None if self.has_watchdog => String::new(),
            None => " (nothing does it)".to_owned(),
        };
        writeln!(f, "  counted from its last renewal, a host that fails")?;
        let rows = [
            ["protects nothing any more".to_owned(), format!("after {}", time(self.id_renewal_fail_ms))],
            ["has been reset".to_owned(), format!("after {}{device}", time(self.host_dead_ms))],
            ["can be taken over from".to_owned(), format!("after {} of silence", time(self.silence_for_takeover_ms))],
        ];
        writeln!(f, "{}", table("    ", &rows.map(Vec::from)))?;
        let mut rows = vec![["what happens", "another host has it after", "why"].map(str::to_owned).to_vec()];
        rows.extend(self.ways.iter().map(|way| {
            let after = match way.earliest_ms {
                0 => format!("0 s to {}", time(way.latest_ms)),
                earliest => format!("{} to {}", time(earliest), time(way.latest_ms)),
            };
            vec![way.fault.to_owned(), after, way.why.clone()]
        }));
        f.write_str(&table("  ", &rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_daemon::config::ConfigFile;

    fn of(watchdog: &str, io_timeout: u64, fire: u64) -> Failover {
        let file = ConfigFile {
            host_name: Some("a".into()),
            watchdog: Some(watchdog.into()),
            io_timeout: Some(io_timeout),
            watchdog_fire_timeout: Some(fire),
            ..ConfigFile::default()
        };
        Failover::of(&file.decide().unwrap())
    }

    #[test]
    fn the_instants_are_those_of_timing() {
        let timing = Timing::new(holdfast_io::timing::IoTimeout::new(5).unwrap(), FireTimeout::new(30).unwrap());
        let found = of("/dev/watchdog", 5, 30);
        assert_eq!(found.id_renewal_fail_ms, ms(timing.id_renewal_fail()));
        assert_eq!(found.host_dead_ms, ms(timing.host_dead()));
        assert_eq!(found.silence_for_takeover_ms, ms(timing.silence_for_takeover()));
        let cut = &found.ways[2];
        assert_eq!(cut.latest_ms - cut.earliest_ms, ms(timing.renewal_interval() * 2));
        assert!(cut.earliest_ms + ms(timing.renewal_interval()) >= found.host_dead_ms);
    }

    #[test]
    fn without_a_watchdog_and_under_wdmd_others_wait_for_sanlocks_time() {
        let (none, wdmd) = (of("none", 10, 20), of("wdmd", 10, 60));
        assert_eq!((none.fire_timeout_s, none.device_s), (60, None));
        assert_eq!((wdmd.fire_timeout_s, wdmd.device_s), (60, None));
        assert!(none.to_string().contains("THERE IS NO WATCHDOG") && !wdmd.to_string().contains("NO WATCHDOG"));
    }

    #[test]
    fn the_table_says_it_in_words() {
        let text = of("/dev/watchdog", 10, 60).to_string();
        assert!(
            text.starts_with("A failover at this site, with an io_timeout of 10 s and a fire timeout of 60 s:\n"),
            "{text}"
        );
        assert!(text.contains("    protects nothing any more  after 1 min 20 s\n"), "{text}");
        assert!(
            text.contains("    has been reset             after 2 min 20 s (the device counts at most 29 s)\n"),
            "{text}"
        );
        assert!(text.contains("  power cut, or a kernel that hangs"), "{text}");
    }
}
