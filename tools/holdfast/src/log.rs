//! The daemon's log: to standard error, without ever waiting for it, and the latest of it into the ring that LOG_DUMP shows, in sanlock's form:
//! `YYYY-MM-DD HH:MM:SS <seconds since boot> [<thread>]: text`, in local time (spec A 11).

use std::fmt;
use std::io::IsTerminal;

use holdfast_daemon::log_ring::LogRing;
use holdfast_io::clock::{BootClock, Clock, boot_now};
use nix::unistd::gettid;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

mod limit;
mod writer;

use limit::{Limit, More};
use writer::{Flush, Queue, Weight};

/// The log at work.
pub struct Log {
    /// The latest lines.
    pub ring: LogRing,
    /// Dropped, it waits for the last of them to be written.
    pub flush: Flush,
}

/// Starts logging.
///
/// # Errors
/// No thread.
pub fn start(debug: bool) -> std::io::Result<Log> {
    let default = if debug { "debug" } else { "info" };
    let filter = || EnvFilter::try_from_env("HOLDFAST_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let colours = std::io::stderr().is_terminal();
    let (ring, limit) = (LogRing::default(), Limit::default());
    let theirs = limit.clone();
    let (queue, flush) = Queue::start(std::io::stderr(), move |lost, end| sum_up(&theirs, lost, end))?;
    let shown = tracing_subscriber::fmt::layer().with_writer(Shown(queue)).with_ansi(colours);
    let kept = tracing_subscriber::fmt::layer().event_format(Lines { clock: BootClock::new().ok() }).with_ansi(false);
    let kept = kept.with_writer(Kept(ring.clone()));
    let layers = tracing_subscriber::registry().with(shown.with_filter(filter())).with(kept.with_filter(filter()));
    layers.with(limit).init();
    // By the usual hook a panic would be written to standard error at once, and wait for it.
    std::panic::set_hook(Box::new(|panic| {
        let why = panic.payload();
        let why = why.downcast_ref::<&str>().copied().or_else(|| why.downcast_ref::<String>().map(String::as_str));
        let at = panic.location().map(ToString::to_string);
        tracing::error!(at, why, "panicked");
    }));
    Ok(Log { ring, flush })
}

/// What was not logged, in numbers.
fn sum_up(limit: &Limit, lost: u64, end: bool) {
    for More { lines, like } in limit.sum_up(boot_now(), end) {
        tracing::info!(lines, like, "more like this");
    }
    if lost > 0 {
        tracing::warn!(lines = lost, "lost: standard error did not take them");
    }
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

/// Leaves each event as one line to be written.
struct Shown(Queue);

/// One event on its way there.
struct Said {
    queue: Queue,
    weight: Weight,
    bytes: Vec<u8>,
}

impl MakeWriter<'_> for Shown {
    type Writer = Said;

    fn make_writer(&self) -> Said {
        Said { queue: self.0.clone(), weight: Weight::Usual, bytes: Vec::new() }
    }

    fn make_writer_for(&self, place: &Metadata<'_>) -> Said {
        Said { queue: self.0.clone(), weight: Weight::of(place), bytes: Vec::new() }
    }
}

impl std::io::Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Said {
    fn drop(&mut self) {
        self.queue.add(std::mem::take(&mut self.bytes), self.weight);
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
