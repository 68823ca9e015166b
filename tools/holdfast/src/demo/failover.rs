//! The failover: one daemon is frozen, its host reset, its lease taken over, and handed on.

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use delta_lease::{DeltaArea, DeltaError, read_host};
use holdfast_client::protocol::RemLockspaceFlags;
use holdfast_daemon::procfs::Procfs;
use holdfast_io::clock::{Clock as _, LocalInstant, boot_now};
use holdfast_io::device::{Device, WriteLimit};
use holdfast_io::ids::HostId;
use holdfast_io::sys::linux::{Access, BlockFile, ThreadsEngine};
use holdfast_io::sys::process::send_signal;
use holdfast_io::units::LeaseOffset;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::cluster::{Cluster, Got};
use super::events::Fired;
use super::program::resource;
use super::story::{FIRST, MOMENT, OTHERS, Story, StoryError};
use super::tell::rounded;

/// How long each new owner writes.
const WRITES_FOR: Duration = Duration::from_millis(1500);
/// Between two lines that say that nothing has happened yet.
const STILL: Duration = Duration::from_secs(2);

/// What is computed when host1's daemon is frozen.
#[derive(Clone, Debug)]
pub struct Computed {
    /// When it was frozen.
    pub frozen: LocalInstant,
    /// How many records stood in the shared file then.
    pub written: u64,
    /// Start of host1's last renewal, as it stands on the disk.
    pub renewal: LocalInstant,
    /// Past this host1 protects nothing.
    pub d2: LocalInstant,
    /// By then host1 is reset.
    pub reset_by: LocalInstant,
    /// Not before this each waiting host takes over, by its own observation.
    pub takeover: BTreeMap<u64, LocalInstant>,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// host1's watchdog.
    pub fired: Fired,
    /// Records that host1's program wrote between the freeze and the reset.
    pub after_freeze: u64,
    /// Who took over.
    pub taker: u64,
    /// When.
    pub takeover: Got,
}

impl Story<'_> {
    /// Freezes host1's daemon, and computes what must follow.
    pub(super) fn freeze(&mut self) -> Result<Computed, StoryError> {
        let (pid, daemon) = self.cluster.daemon(FIRST)?;
        let written = self.written();
        send_signal(daemon.as_fd(), Signal::SIGSTOP)?;
        let frozen = boot_now();
        let procfs = Procfs::default();
        self.cluster.until("host1's daemon stands still", MOMENT, |_| {
            let state = procfs.stat(pid)?.map(|stat| stat.state);
            Ok::<_, StoryError>((state == Some('T')).then_some(()))
        })?;
        let text = format!(
            "SIGSTOP to its daemon, process {pid}, and to nothing else: nobody renews, nobody pets the watchdog,\n\
             nobody is left to end the program, which knows nothing of it and goes on writing"
        );
        self.teller.tell(frozen, Some(FIRST), "frozen", &text, json!({ "pid": pid }))?;
        let computed = self.compute(frozen, written)?;
        self.tell_computed(&computed)?;
        Ok(computed)
    }

    /// From the disk, and from the waiting daemons. A renewal that was on its way when the daemon was frozen may still
    /// have landed: only what stands on the disk before and after both were asked counts.
    fn compute(&self, frozen: LocalInstant, written: u64) -> Result<Computed, StoryError> {
        loop {
            let renewal = self.renewal_on_disk()?;
            let mut takeover = BTreeMap::new();
            for id in OTHERS {
                let asked = boot_now();
                let wanted = resource(&self.place.disk)?;
                let bytes = self.cluster.ask(id, |mut daemon| daemon.explain(wanted))?;
                let explained: Value = serde_json::from_slice(&bytes).unwrap_or_default();
                let ms = explained.pointer("/owner/host/takeover_possible_in_ms").and_then(Value::as_u64);
                let ms = ms.ok_or_else(|| StoryError::Answer {
                    host: id,
                    what: "when a takeover is possible",
                    found: explained.to_string(),
                })?;
                takeover.insert(id, asked.after(Duration::from_millis(ms)));
            }
            if self.renewal_on_disk()? == renewal {
                let d2 = renewal.after(self.timing.id_renewal_fail());
                let reset_by = renewal.after(self.timing.host_dead());
                return Ok(Computed { frozen, written, renewal, d2, reset_by, takeover });
            }
        }
    }

    /// The timestamp of host1's sector, which is the start of the renewal that wrote it, with the seal's milliseconds.
    fn renewal_on_disk(&self) -> Result<LocalInstant, StoryError> {
        let file = Arc::new(BlockFile::open(&self.place.disk, Access::ReadOnly)?);
        let disk = Device::new(ThreadsEngine::new(file, 1, "demo-io"), self.clock.clone(), WriteLimit::none());
        let no_such =
            || StoryError::Sector { path: self.place.disk.clone(), offset: 0, found: "no such host_id".into() };
        let host = HostId::new(FIRST).ok_or_else(no_such)?;
        let read = async {
            let io_timeout = self.timing.io_timeout;
            let area = DeltaArea::open(&disk, &self.clock, LeaseOffset(0), io_timeout, None).await?;
            let by = self.clock.now().after(MOMENT);
            let view = read_host(&disk, &self.clock, &area, host, by).await?;
            Ok::<_, DeltaError>((area.offset_of(host), view.decode(&area)))
        };
        let (offset, sector) = pollster::block_on(read)?;
        let wrong = |found: String| StoryError::Sector { path: self.place.disk.clone(), offset, found };
        let sector = sector.map_err(|e| wrong(e.to_string()))?;
        let seal = sector.seal.ok_or_else(|| wrong("it has no seal".into()))?;
        let millis = sector.leader.timestamp.0.saturating_mul(1000).saturating_add(seal.millis.into());
        Ok(LocalInstant::from_nanos(millis.saturating_mul(1_000_000)))
    }

    fn tell_computed(&self, computed: &Computed) -> Result<(), StoryError> {
        let (io, fire) = (self.timing.id_renewal_fail().as_secs(), self.timing.fire_timeout);
        let t = |at| self.t(at);
        let text = format!(
            "computed: it began its last renewal at {:.2}, as its sector on the disk says;\n\
             at {:.2} (+{io} s, D2) it protects nothing any more; by {:.2} (+{fire}, D3) it has been reset",
            t(computed.renewal),
            t(computed.d2),
            t(computed.reset_by)
        );
        let fields = json!({
            "last_renewal": rounded(t(computed.renewal)),
            "d2": rounded(t(computed.d2)),
            "reset_by": rounded(t(computed.reset_by)),
        });
        self.teller.now(Some(FIRST), "computed_reset", &text, fields)?;
        let silence = self.timing.silence_for_takeover().as_secs_f64();
        for (id, at) in &computed.takeover {
            let text = format!(
                "computed from what it saw on the disk itself: it may take over at {:.2} and not before\n\
                 ({silence:.3} s of silence: {} s + drift of the clocks + 1 s for a coarse watchdog)",
                t(*at),
                self.timing.host_dead().as_secs()
            );
            self.teller.now(Some(*id), "computed_takeover", &text, json!({ "takeover": rounded(t(*at)) }))?;
        }
        Ok(())
    }

    /// Waits for host1's watchdog.
    pub(super) fn reset(&mut self, computed: &Computed) -> Result<(Fired, u64), StoryError> {
        let before = computed.written;
        let end = computed.reset_by.after(MOMENT);
        let fired = self.watch("host1's watchdog fires", end, Some(before), |cluster| cluster.host(FIRST)?.fired)?;
        let after = self.written().saturating_sub(before);
        let late = fired.over() > computed.reset_by;
        let text = format!(
            "its watchdog fired, {:.2} s after the last pet: {} processes killed within {:.0} ms\n\
             its program wrote {after} records after the freeze; computed: reset by {:.2}, measured {:.2}",
            fired.since_pet.as_secs_f64(),
            fired.killed,
            fired.took.as_secs_f64() * 1000.0,
            self.t(computed.reset_by),
            self.t(fired.over()),
        );
        let fields = json!({
            "killed": fired.killed,
            "records_after_freeze": after,
            "measured": rounded(self.t(fired.over())),
            "computed_latest": rounded(self.t(computed.reset_by)),
        });
        self.teller.tell(fired.at, Some(FIRST), "fired", &text, fields)?;
        if late {
            self.faults
                .push(format!("host1 was reset {:.3} s too late", fired.over().since(computed.reset_by).as_secs_f64()));
        }
        if after == 0 {
            self.faults.push("host1's program wrote nothing between the freeze and the reset".into());
        }
        Ok((fired, after))
    }

    /// Waits until a waiting host takes the lease over.
    pub(super) fn takeover(&mut self, computed: &Computed) -> Result<(u64, Got), StoryError> {
        let rogue = self.sabotage.then_some(computed.written);
        let last = computed.takeover.values().max().copied().unwrap_or(computed.reset_by);
        let (id, got) = self.watch("a waiting host takes the lease over", last.after(MOMENT), rogue, |cluster| {
            OTHERS.iter().find_map(|id| Some((*id, cluster.host(*id)?.got?)))
        })?;
        let earliest = computed.takeover.get(&id).copied().unwrap_or(last);
        let text = format!(
            "took the lease over at lver {}, and its program writes: computed not before {:.2}, measured {:.2}",
            got.lver,
            self.t(earliest),
            self.t(got.at)
        );
        let fields = json!({
            "lver": got.lver,
            "computed_earliest": rounded(self.t(earliest)),
            "measured": rounded(self.t(got.at)),
        });
        self.teller.tell(got.at, Some(id), "takeover", &text, fields)?;
        if got.at < earliest {
            let early = earliest.since(got.at).as_secs_f64();
            self.faults.push(format!("host{id} took the lease over {early:.3} s before the computed instant"));
        }
        self.cluster.wait_until(got.at.after(WRITES_FOR))?;
        Ok((id, got))
    }

    /// Waits for something, telling meanwhile what the waiting hosts think of host1, and that nothing else happens.
    fn watch<T>(
        &mut self,
        what: &str,
        end: LocalInstant,
        writes_since: Option<u64>,
        found: impl Fn(&Cluster) -> Option<T>,
    ) -> Result<T, StoryError> {
        loop {
            let next = boot_now().after(STILL);
            let limit = end.since(boot_now());
            let value = self.cluster.until(what, limit, |cluster| {
                Ok::<_, StoryError>(match found(cluster) {
                    Some(value) => Some(Some(value)),
                    None => (boot_now() >= next).then_some(None),
                })
            })?;
            if let Some(value) = value {
                return Ok(value);
            }
            if let Some(before) = writes_since {
                let count = self.written().saturating_sub(before);
                let text = format!("its program still writes: {count} records since the freeze");
                self.teller.now(Some(FIRST), "still_writing", &text, json!({ "records_after_freeze": count }))?;
            }
            self.look_at_views()?;
        }
    }

    /// What the waiting hosts think of host1, if that has changed.
    fn look_at_views(&mut self) -> Result<(), StoryError> {
        for id in OTHERS {
            let status = self.status(id)?;
            let hosts = status.pointer("/hosts/demo").and_then(Value::as_array);
            let first = hosts.and_then(|all| all.iter().find(|host| host.get("host_id") == Some(&json!(FIRST))));
            let Some(first) = first else { continue };
            let state = first.get("state").and_then(Value::as_str).unwrap_or("unknown").to_owned();
            let ago = first.get("last_renewal_seen_ms_ago").and_then(Value::as_f64).unwrap_or(0.0) / 1000.0;
            let known = self.views.insert(id, state.clone());
            if known.as_ref() != Some(&state) {
                let text = format!("sees host1 as {state}: its last renewal was seen {ago:.1} s ago");
                self.teller.now(Some(id), "view", &text, json!({ "of": "host1", "state": state }))?;
            }
        }
        Ok(())
    }

    /// The new owner ends of its own accord; the host still waiting gets the lease without any silence to wait for.
    pub(super) fn hand_over(&mut self, from: u64) -> Result<(), StoryError> {
        let Some(to) = OTHERS.into_iter().find(|id| *id != from) else { return Ok(()) };
        let ended = self.stop_program(from)?;
        self.teller.tell(
            ended,
            Some(from),
            "released",
            "its program ended by itself, which gives the lease back",
            Value::Null,
        )?;
        let (_, got) = self.await_lease(&[to], MOMENT)?;
        let after = got.at.since(ended).as_secs_f64();
        let text = format!(
            "owns the lease at lver {}, {after:.2} s later: an end that is seen need not be waited out",
            got.lver
        );
        self.teller.tell(
            got.at,
            Some(to),
            "handover",
            &text,
            json!({ "lver": got.lver, "after_s": rounded(after) }),
        )?;
        self.cluster.wait_until(got.at.after(WRITES_FOR))?;
        let ended = self.stop_program(to)?;
        self.teller.tell(ended, Some(to), "released", "its program ended by itself", Value::Null)?;
        Ok(())
    }

    fn stop_program(&mut self, id: u64) -> Result<LocalInstant, StoryError> {
        self.cluster.order(id, "stop")?;
        self.cluster.until(format!("host{id}'s program ends"), MOMENT, |cluster| {
            Ok(cluster.host(id).and_then(|host| host.ended))
        })
    }

    /// Whoever is left leaves the lockspace and ends, its watchdog disarmed.
    pub(super) fn shut_down(&mut self) -> Result<(), StoryError> {
        self.cluster.end_outsider();
        for id in OTHERS {
            let lockspace = self.lockspace(id)?;
            self.cluster.ask(id, |mut daemon| daemon.rem_lockspace(RemLockspaceFlags::NONE, lockspace))?;
            self.cluster.ask(id, |daemon| daemon.shutdown(false, true))?;
            let status = self.cluster.until(format!("host{id} ends"), MOMENT, |cluster| {
                Ok::<_, StoryError>(cluster.host(id).and_then(|host| host.over))
            })?;
            let text = format!("left the lockspace, disarmed its watchdog, ended with status {status}");
            self.teller.now(Some(id), "ended", &text, json!({ "status": status }))?;
            if status != 0 {
                self.faults.push(format!("host{id} ended with status {status}, expected 0"));
            }
        }
        Ok(())
    }
}
