//! The daemon's log: to standard error, and the latest of it into the ring that LOG_DUMP shows, in sanlock's form:
//! `YYYY-MM-DD HH:MM:SS <seconds since boot> [<thread>]: text`, in local time (spec A 11).

use std::fmt;
use std::io::IsTerminal;

use holdfast_daemon::log_ring::LogRing;
use holdfast_io::clock::{BootClock, Clock};
use nix::unistd::gettid;
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// Starts logging; the ring is what it fills.
#[must_use]
pub fn start(debug: bool) -> LogRing {
    let default = if debug { "debug" } else { "info" };
    let filter = || EnvFilter::try_from_env("HOLDFAST_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let colours = std::io::stderr().is_terminal();
    let ring = LogRing::default();
    let shown = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    let kept = tracing_subscriber::fmt::layer().event_format(Lines { clock: BootClock::new().ok() }).with_ansi(false);
    let kept = kept.with_writer(Kept(ring.clone()));
    tracing_subscriber::registry().with(shown.with_filter(filter())).with(kept.with_filter(filter())).init();
    ring
}

/// The form of a line.
struct Lines {
    clock: Option<BootClock>,
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let date = jiff::Zoned::now().strftime("%Y-%m-%d %H:%M:%S");
        let seconds = self.clock.as_ref().map_or(0, |clock| clock.now().disk_seconds());
        write!(out, "{date} {seconds} [{}]: ", gettid())?;
        context.field_format().format_fields(out.by_ref(), event)
    }
}

/// Writes each event as one line of the ring.
struct Kept(LogRing);

/// One event on its way there.
struct Line {
    ring: LogRing,
    bytes: Vec<u8>,
}

impl MakeWriter<'_> for Kept {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line { ring: self.0.clone(), bytes: Vec::new() }
    }
}

impl std::io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // What a client made us log must not look like lines of its own.
        let text = String::from_utf8_lossy(&self.bytes).replace('\n', "\\n");
        self.ring.add(text);
    }
}
