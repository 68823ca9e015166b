//! The client against a fake wdmd, which does what the real one was seen to do (spec B 9; docs/sanlock-observations.md).

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::sync::{Arc, Condvar, Mutex};

use nix::errno::Errno;
use proptest::prelude::*;

use super::*;

/// A connection, as wdmd keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Client {
    name: String,
    refcount: bool,
    renewal: u64,
    expiry: u64,
    dead: bool,
    /// How often it was told an expiry.
    told: u32,
}

#[derive(Default)]
struct State {
    clients: BTreeMap<u32, Client>,
    streams: Vec<UnixStream>,
    hangs: bool,
    fire_timeout: u32,
}

/// A fake wdmd in threads of this process.
#[derive(Clone, Default)]
struct FakeWdmd {
    state: Arc<Mutex<State>>,
    woken: Arc<Condvar>,
}

impl FakeWdmd {
    fn start(path: &Path) -> Self {
        let fake = FakeWdmd::default();
        fake.state.lock().unwrap().fire_timeout = 60;
        let listener = UnixListener::bind(path).unwrap();
        let server = fake.clone();
        std::thread::spawn(move || {
            for number in 2.. {
                let Ok((stream, _)) = listener.accept() else { return };
                let mut state = server.state.lock().unwrap();
                state.clients.insert(number, Client::default());
                state.streams.push(stream.try_clone().unwrap());
                drop(state);
                let server = server.clone();
                std::thread::spawn(move || server.serve(number, stream));
            }
        });
        fake
    }

    fn serve(&self, number: u32, mut stream: UnixStream) {
        let mut message = [0; LEN];
        while stream.read_exact(&mut message).is_ok() {
            let mut state = self.woken.wait_while(self.state.lock().unwrap(), |state| state.hangs).unwrap();
            let answer = state.take(number, &message);
            drop(state);
            self.woken.notify_all();
            // What stands behind an answer that cannot be delivered is not read, by the real one either.
            if stream.write_all(&answer).is_err() {
                break;
            }
        }
        let mut state = self.state.lock().unwrap();
        match state.clients.get_mut(&number) {
            Some(client) if client.expiry != 0 => client.dead = true,
            _ => drop(state.clients.remove(&number)),
        }
        drop(state);
        self.woken.notify_all();
    }

    fn hang(&self, hangs: bool) {
        self.state.lock().unwrap().hangs = hangs;
        self.woken.notify_all();
    }

    fn hang_up(&self) {
        for stream in self.state.lock().unwrap().streams.drain(..) {
            let _closed = stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// The entries, once each connection that is closed was seen to be.
    fn entries(&self) -> Vec<Client> {
        let state = self.state.lock().unwrap();
        state.clients.values().filter(|client| !client.name.is_empty() && client.name != "dump").cloned().collect()
    }

    fn wait_for(&self, so: impl Fn(&[Client]) -> bool) {
        let mut state = self.state.lock().unwrap();
        while !so(&state.clients.values().cloned().collect::<Vec<_>>()) {
            state = self.woken.wait(state).unwrap();
        }
    }
}

impl State {
    fn take(&mut self, number: u32, message: &[u8; LEN]) -> Vec<u8> {
        let word = |at: usize| LittleEndian::read_u64(&message[at..at + 8]);
        let client = self.clients.get_mut(&number).unwrap();
        match LittleEndian::read_u32(&message[4..8]) {
            1 => client.name = String::from_utf8_lossy(&message[48..]).trim_end_matches('\0').to_owned(),
            2 => client.refcount = true,
            3 => client.refcount = false,
            4 => {
                (client.renewal, client.expiry) = (word(32), word(40));
                client.told += 1;
            }
            5 => {
                let mut answer = *message;
                LittleEndian::write_u32(&mut answer[20..24], self.fire_timeout);
                return answer.to_vec();
            }
            6 => {
                client.name = "dump".into();
                return self.dump().into_bytes();
            }
            other => panic!("command {other}"),
        }
        Vec::new()
    }

    fn dump(&self) -> String {
        let mut text = "wdmd 5 socket_gid 0 high_priority 0 now 1000 last_keepalive 0\n".to_owned();
        for (number, c) in &self.clients {
            let (dead, refcount) = (u32::from(c.dead), u32::from(c.refcount));
            text += &format!(
                "client {number} name {} pid {} fd 8 dead {dead} ref {refcount} now 1000 renewal {} expire {}\n",
                c.name,
                std::process::id(),
                c.renewal,
                c.expiry
            );
        }
        text + "\n"
    }
}

fn fake() -> (tempfile::TempDir, PathBuf, FakeWdmd) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wdmd.sock");
    let fake = FakeWdmd::start(&path);
    (dir, path, fake)
}

fn arm(path: &Path) -> Result<WdmdWatchdog, WatchdogError> {
    WdmdWatchdog::arm(path, "holdfast_test", FireTimeout::SANLOCK)
}

fn soon() -> LocalInstant {
    boot_now().after(Duration::from_secs(80))
}

fn seconds(n: u64) -> LocalInstant {
    LocalInstant::EARLIEST.after(Duration::from_secs(n))
}

#[test]
fn messages_are_the_bytes_that_sanlock_was_seen_to_send() {
    let hex = |message: Message<'_>| message.encode().iter().map(|b| format!("{b:02x}")).collect::<String>();
    let zeros = |n: usize| "00".repeat(n);
    let register = format!("00000000{}{}73616e6c6f636b5f4c53573a31{}", "01000000", zeros(40), zeros(115));
    assert_eq!(hex(Message::register("sanlock_LSW:1")), register);
    let live = format!("0000000004000000{}6e040000000000007604000000000000{}", zeros(24), zeros(128));
    assert_eq!(hex(Message::test_live(1134, 1142)), live);
    let mut answer = Message::plain(Command::Status).encode();
    answer[16..20].copy_from_slice(&[0x0a, 0, 0, 0]);
    answer[20..28].copy_from_slice(&[0x3c, 0, 0, 0, 0x6e, 4, 0, 0]);
    assert_eq!(Status::decode(&answer), Some(Status { fire_timeout: Seconds(60) }));
    assert_eq!(Status::decode(&Message::plain(Command::TestLive).encode()), None);
    assert_eq!(Message::register(&"x".repeat(200)).encode()[175], 0, "a name ends with a NUL");
}

proptest! {
    #[test]
    fn d3_an_expiry_is_at_least_two_seconds_before_the_instant_and_less_than_three(
        monotonic in 10_000_000_000_u64..1 << 50, asleep in 0_u64..1 << 50, left in 0_u64..2_000_000_000_000,
    ) {
        let boot = LocalInstant::from_nanos(monotonic + asleep);
        let until = boot.after(Duration::from_nanos(left));
        let told = u128::from(expiry(until, Reading { monotonic, boot })) * 1_000_000_000;
        let instant = u128::from(monotonic) + u128::from(left);
        prop_assert!(told + 2_000_000_000 <= instant && told + 3_000_000_000 > instant);
    }

    #[test]
    fn an_expiry_never_ends_the_count_and_is_never_far_away(
        monotonic in any::<u64>(), boot in any::<u64>(), until in any::<u64>(),
    ) {
        let at = Reading { monotonic, boot: LocalInstant::from_nanos(boot) };
        let told = expiry(LocalInstant::from_nanos(until), at);
        prop_assert!(told >= 1 && told <= (monotonic / 1_000_000_000).saturating_add(8 * 255).max(1));
    }

    #[test]
    fn what_wdmd_tells_of_itself_may_be_any_text(text in ".{0,400}") {
        let _ = counting_entries(&text);
        let _ = counting_entries(&format!("wdmd 1\nclient 2 name dump pid 0 now 0 expire 0\nclient {text}"));
    }
}

#[test]
fn an_instant_that_has_passed_or_clocks_that_cannot_be_read_expire_at_once() {
    let at = Reading { monotonic: 500_000_000_000, boot: seconds(900) };
    assert_eq!(expiry(seconds(899), at), 498);
    assert_eq!(expiry(seconds(1000), at), 598);
    assert_eq!(expiry(LocalInstant::NEVER, Reading { boot: LocalInstant::NEVER, ..at }), 498);
    assert_eq!(expiry(seconds(910), Reading { monotonic: 0, ..at }), 8);
}

#[test]
fn a_pet_tells_wdmd_an_expiry_before_the_instant_and_disarming_ends_the_count() {
    let (_dir, path, fake) = fake();
    let mut watchdog = arm(&path).unwrap();
    let entries = fake.entries();
    assert_eq!(
        (entries.len(), entries[0].refcount, entries[0].expiry),
        (1, true, 0),
        "it counts from its first pet on"
    );
    let until = soon();
    watchdog.pet(until).unwrap();
    let entry = fake.entries().remove(0);
    let (monotonic, left) = (monotonic_nanos() / NANOS, until.since(boot_now()).as_secs());
    assert!(entry.expiry + 2 <= monotonic + left + 1 && entry.expiry >= monotonic + 70, "{entry:?} at {monotonic}");
    assert!(entry.renewal + 5 >= monotonic);
    assert_eq!(watchdog.timeout(), Some(Seconds(60)));
    watchdog.disarm().unwrap();
    assert!(watchdog.pet(until).is_err() && watchdog.disarm().is_err() && watchdog.fire_at_once().is_err());
    fake.wait_for(|clients| clients.iter().all(|c| c.name != "holdfast_test"));
    arm(&path).unwrap();
}

#[test]
fn an_entry_whose_daemon_died_counts_on_and_nothing_is_armed_beside_it() {
    let (_dir, path, fake) = fake();
    let mut watchdog = arm(&path).unwrap();
    watchdog.pet(soon()).unwrap();
    drop(watchdog);
    fake.wait_for(|clients| clients.iter().any(|c| c.dead && c.expiry != 0 && c.refcount));
    let error = arm(&path).err().unwrap().to_string();
    let expected = format!("the entry holdfast_test of process {} counts", std::process::id());
    assert!(error.contains(&expected), "{error}");
    assert!(error.contains("THIS HOST WILL BE RESET"), "{error}");
    assert!(is_clear(&path, "holdfast_test").is_err());
    is_clear(&path, "holdfast_other").unwrap();
}

#[test]
fn w1_a_suspend_while_wdmd_is_told_is_found_and_the_expiry_told_again() {
    let (_dir, path, fake) = fake();
    // Asleep for 30 s after the first reading: the monotonic clock stood still.
    let mut readings = [(500, 900), (500, 930), (500, 930)].into_iter();
    let clocks = move || {
        let (monotonic, boot) = readings.next().unwrap();
        Reading { monotonic: monotonic * NANOS, boot: seconds(boot) }
    };
    let mut watchdog = WdmdWatchdog::with_clocks(&path, "holdfast_test", FireTimeout::SANLOCK, clocks).unwrap();
    watchdog.pet(seconds(980)).unwrap();
    let entry = fake.entries().remove(0);
    assert_eq!((entry.told, entry.expiry), (2, 548));
}

#[test]
fn a_wdmd_that_hangs_costs_one_wait_and_is_told_again_when_it_is_back() {
    let (_dir, path, fake) = fake();
    let mut watchdog = arm(&path).unwrap();
    watchdog.pet(soon()).unwrap();
    let told = fake.entries()[0].expiry;
    fake.hang(true);
    let began = boot_now();
    let late = soon().after(Duration::from_secs(100));
    let error = watchdog.pet(late).unwrap_err().to_string();
    assert!(error.contains("TEST_LIVE failed: it does not answer. wdmd hangs"), "{error}");
    let waited = boot_now().since(began);
    assert!(waited >= PATIENCE, "{waited:?}");
    let began = boot_now();
    for _ in 0..100 {
        assert!(watchdog.pet(late).is_err());
    }
    assert!(boot_now().since(began) < PATIENCE, "a hundred pets wait for nothing");
    assert_eq!(fake.entries()[0].expiry, told, "it has taken nothing");
    fake.hang(false);
    fake.wait_for(|clients| clients.iter().any(|c| c.expiry > told));
    let until = boot_now().after(Duration::from_secs(60));
    while watchdog.pet(late).is_err() {
        assert!(boot_now() < until, "the answer that was owed is taken first");
    }
}

#[test]
fn an_entry_of_our_own_that_is_not_cleared_yet_is_no_reset_of_this_host() {
    let (_dir, path, fake) = fake();
    let mut before = arm(&path).unwrap();
    before.pet(soon()).unwrap();
    // What clears it is queued with a wdmd that answers somebody else first.
    let error = arm(&path).err().unwrap().to_string();
    assert!(error.contains("it is being cleared, try again"), "{error}");
    before.disarm().unwrap();
    fake.wait_for(|clients| clients.iter().all(|c| c.expiry == 0));
    arm(&path).unwrap();
}

#[test]
fn an_entry_that_is_cleared_while_wdmd_hangs_is_cleared_when_it_goes_on() {
    let (_dir, path, fake) = fake();
    let mut watchdog = arm(&path).unwrap();
    watchdog.pet(soon()).unwrap();
    fake.hang(true);
    watchdog.pet(soon()).unwrap_err();
    let error = watchdog.disarm().unwrap_err().to_string();
    assert!(error.contains("clearing the entry failed: it does not answer"), "{error}");
    drop(watchdog);
    fake.hang(false);
    fake.wait_for(|clients| clients.iter().all(|c| c.expiry == 0 && !c.refcount));
    arm(&path).unwrap();
}

#[test]
fn a_wdmd_that_hangs_up_is_a_failed_pet_for_good() {
    let (_dir, path, fake) = fake();
    let mut watchdog = arm(&path).unwrap();
    watchdog.pet(soon()).unwrap();
    fake.hang_up();
    for _ in 0..3 {
        let error = watchdog.pet(soon()).unwrap_err().to_string();
        assert!(error.ends_with("wdmd has ended, and nobody pets the watchdog"), "{error}");
    }
    assert!(watchdog.disarm().is_err());
}

#[test]
fn firing_at_once_expires_the_entry_and_nothing_prolongs_it_after() {
    let (_dir, path, fake) = fake();
    let mut watchdog = arm(&path).unwrap();
    watchdog.pet(soon()).unwrap();
    assert_eq!(watchdog.fire_at_once().unwrap(), Seconds(60));
    assert!(watchdog.pet(soon()).is_err() && watchdog.disarm().is_err());
    assert_eq!(fake.entries()[0].expiry, 1);
}

#[test]
fn a_wdmd_that_is_not_there_or_cannot_keep_what_is_sealed_is_named_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wdmd.sock");
    let error = look(&path).unwrap_err().to_string();
    let said =
        "connecting failed: ENOENT: No such file or directory. Is wdmd running? Start it, or choose --watchdog DEVICE";
    assert_eq!(
        error.replace("No such file or directory (os error 2)", "ENOENT: No such file or directory"),
        format!("wdmd at {}: {said}", path.display())
    );
    drop(UnixListener::bind(&path).unwrap());
    let error = arm(&path).err().unwrap().to_string();
    assert!(error.contains("wdmd has ended: start it"), "{error}");
    let refused = WatchdogError::wdmd(&path, "connecting", Errno::EACCES.into()).to_string();
    assert!(refused.ends_with("The socket is for root and for the group that wdmd was given with -G"), "{refused}");

    let (_dir, path, fake) = fake();
    look(&path).unwrap();
    let error = WdmdWatchdog::arm(&path, "x", FireTimeout::new(59).unwrap()).err().unwrap().to_string();
    assert!(error.ends_with("its device fires after 60 s, and no other time can be kept; found 59 s"), "{error}");
    fake.state.lock().unwrap().fire_timeout = 30;
    assert!(matches!(look(&path), Err(WatchdogError::WdmdFires { found: Seconds(30), .. })));
    assert!(arm(&path).is_err());
}

/// As wdmd of sanlock 3.8.5 printed it, the names changed.
const DUMP: &str = "wdmd 14025 socket_gid 0 high_priority 0 now 26919 last_keepalive 26916 last_closeunclean 0 allow_scripts 0 kill_script_sec 0
client 0 name signal pid 0 fd 5 dead 0 ref 0 now 26919 renewal 0 expire 0
client 1 name listen pid 0 fd 6 dead 0 ref 0 now 26919 renewal 0 expire 0
client 2 name holdfast_/run/a pid 9 b pid 13978 fd -1 dead 1 ref 1 now 26919 renewal 26916 expire 26946
client 4 name dump pid 0 fd 8 dead 0 ref 0 now 26919 renewal 0 expire 0

";

#[test]
fn entries_that_count_are_found_in_what_wdmd_tells_and_a_text_cut_short_is_refused() {
    let entry = Entry { name: "holdfast_/run/a pid 9 b".into(), pid: 13978, left: 27, dead: true };
    assert_eq!(counting_entries(DUMP), Ok(vec![entry]));
    let before_ours = DUMP.find("client 4").unwrap();
    assert!(counting_entries(&DUMP[..before_ours]).unwrap_err().contains("the connection that asked"));
    assert!(counting_entries(&DUMP.replace(" expire 26946", "")).is_err());
    assert!(counting_entries("").is_err());
}

#[test]
fn an_io_timeout_of_one_second_is_too_short_and_says_what_is_not() {
    let why = too_short(IoTimeout::new(1).unwrap()).unwrap();
    assert!(why.starts_with("an io_timeout of 1 s cannot be kept under wdmd") && why.contains("2 s or more"), "{why}");
    assert!((2..=255).all(|x| too_short(IoTimeout::new(x).unwrap()).is_none()));
}

#[test]
fn an_entry_is_called_after_the_run_directory_and_fits() {
    assert_eq!(entry_name(Path::new("/run/sanlock")), "holdfast_/run/sanlock");
    let long = entry_name(Path::new(&format!("/{}", "ä".repeat(100))));
    assert!(long.len() < NAME_LEN && long.starts_with("holdfast_/ä"));
}
