//! What the loop hears first.

use std::time::Duration;

use holdfast_io::seal::SealedFire;
use holdfast_io::sys::rights::Rights;
use holdfast_io::timing::IoTimeout;
use holdfast_protocol::command::AddLockspaceFlags;
use holdfast_protocol::header::Header;
use holdfast_protocol::payload::{Disk, Lockspace as Wire};
use holdfast_protocol::request::{Message, Request};
use holdfast_protocol::text::{DiskPath, Name48};
use tokio::task::LocalSet;

use super::*;
use crate::linux::Linux;
use crate::supervisor::event::{ClientId, Took};
use crate::supervisor::{Report, Settings};
use crate::watchdog::{Choice, Kind};

/// Nobody is connected.
struct Nobody;

impl Front<Linux> for Nobody {
    fn perform(&mut self, _: &mut Works<Linux>, _: Effect<Held>) -> Option<Event<Held>> {
        None
    }
}

fn on_a_loop(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    LocalSet::new().block_on(&runtime, test);
}

fn works(run_dir: &std::path::Path) -> Works<Linux> {
    let settings = Settings {
        host_name: "host".into(),
        io_timeout: IoTimeout::DEFAULT,
        fire_timeout: FireTimeout::SANLOCK,
        sealed: SealedFire::NoWatchdog,
        watchdog: Kind::None,
        kill_grace: Duration::from_secs(5),
        strict_clients: false,
        boot_id: "boot".into(),
        report: Report::default(),
    };
    let linux = Linux::new(Choice::None, run_dir.to_owned()).unwrap();
    let machine = Machine::of_this_host().unwrap();
    Works::new(Supervisor::new(settings, Vec::new()), linux, machine, HostName::new(b"host").unwrap())
}

fn asks(request: Request) -> Event<Held> {
    let header = Header::request(request.command());
    let message = Message { header, command: request.command(), request };
    Event::Request { client: ClientId(1), message }
}

/// As many requests as no daemon has connections for.
fn crowd(works: &Works<Linux>) {
    for _ in 0..10_000 {
        works.notes().event(asks(Request::HoldfastStatus));
    }
}

async fn event(works: &mut Works<Linux>) -> Event<Held> {
    match works.next().await {
        Turn::Note(Note::Event(event)) => *event,
        Turn::Note(_) => panic!("an area was found"),
        Turn::Tick => panic!("there was nothing to hear"),
    }
}

#[test]
fn a_renewal_is_heard_of_before_ten_thousand_requests_that_came_earlier() {
    on_a_loop(async {
        let dir = tempfile::tempdir().unwrap();
        let mut works = works(dir.path());
        crowd(&works);
        let (space, started_at) = ("LS".parse().unwrap(), works.platform().clock().now());
        works.news.sender.event(Event::Renewed { space, started_at, took: Took::default() });
        works.news.sender.event(Event::Left { space });
        assert!(matches!(event(&mut works).await, Event::Renewed { .. }));
        assert!(matches!(event(&mut works).await, Event::Left { .. }), "news of a lockspace keep their order");
        assert!(matches!(event(&mut works).await, Event::Request { .. }));
    });
}

#[test]
fn what_the_thread_of_a_lockspace_says_is_heard_before_requests() {
    on_a_loop(async {
        let dir = tempfile::tempdir().unwrap();
        let mut works = works(dir.path());
        works
            .handle(&mut Nobody, Event::Connected { client: ClientId(1), pid: 1, rights: Rights::Ours })
            .await
            .unwrap();
        crowd(&works);
        let path = DiskPath::new(dir.path().join("not-there").to_str().unwrap()).unwrap();
        let lockspace = Wire::new(Name48::new("LS").unwrap(), 1, Disk::new(path, 0));
        let add = Request::AddLockspace { flags: AddLockspaceFlags::NONE, io_timeout: 1, lockspace };
        works.handle(&mut Nobody, asks(add)).await.unwrap();
        let until = works.platform().clock().now().after(Duration::from_secs(60));
        let mut heard = Vec::new();
        while heard.len() < 3 {
            // The loop has nothing to do but requests, until the thread has spoken.
            while works.news.inbox.is_empty() {
                assert!(works.platform().clock().now() < until, "the thread says nothing");
                tokio::task::yield_now().await;
            }
            let note = event(&mut works).await;
            heard.push(format!("{note:?}").split([' ', '{']).next().unwrap().to_owned());
            works.handle(&mut Nobody, note).await.unwrap();
        }
        assert_eq!(heard, ["Joined", "Reaped", "Left"]);
    });
}
