//! The harness's hand in a host: commands come in through a virtio-serial port, a line of JSON each, and run beside each other, so
//! that one which hangs on a dead disk keeps no other waiting.
//!
//! | in | out |
//! | --- | --- |
//! | `{"id": 1, "run": "sh text"}` | `{"id": 1, "status": 0, "output": "..."}` once it has ended |
//! | `{"id": 2, "run": "sh text", "serve": "name"}` | `{"id": 2, "pid": 77}` at once; then `{"of": "name", "line": "..."}` for each line that it says, and `{"of": "name", "ended": 0}` |
//!
//! Its first word is `{"up": seconds of uptime}`.

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Order {
    id: u64,
    run: String,
    serve: Option<String>,
}

/// The way out: whole lines of whoever has something to say.
#[derive(Clone)]
struct Out(Arc<Mutex<File>>);

impl Out {
    fn say(&self, what: &Value) {
        let mut port = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody listens any more: there is nobody to tell.
        let _ = port.write_all(format!("{what}\n").as_bytes());
    }
}

pub fn serve(port: &Path) -> Result<(), Box<dyn Error>> {
    let port = File::options().read(true).write(true).open(port)?;
    let out = Out(Arc::new(Mutex::new(port.try_clone()?)));
    let uptime = fs::read_to_string("/proc/uptime")?;
    let seconds: f64 = uptime.split(' ').next().unwrap_or_default().parse()?;
    out.say(&json!({"up": seconds}));
    for line in BufReader::new(port).lines() {
        let order: Order = serde_json::from_str(&line?)?;
        let out = out.clone();
        thread::spawn(move || carry_out(order, &out));
    }
    Ok(())
}

fn carry_out(order: Order, out: &Out) {
    let Order { id, run, serve } = order;
    let done = match serve {
        Some(name) => serve_as(&name, id, &run, out),
        None => {
            run_to_end(&run).map(|(status, output)| out.say(&json!({"id": id, "status": status, "output": output})))
        }
    };
    if let Err(error) = done {
        out.say(&json!({"id": id, "status": -1, "output": error.to_string()}));
    }
}

fn shell(text: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    // What is said of errors is part of what is said.
    command.args(["-c", &format!("exec 2>&1\n{text}")]).stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

fn number_of(status: ExitStatus) -> i32 {
    status.code().or(status.signal().map(|signal| -signal)).unwrap_or(-1)
}

fn run_to_end(text: &str) -> std::io::Result<(i32, String)> {
    let output = shell(text).spawn()?.wait_with_output()?;
    Ok((number_of(output.status), String::from_utf8_lossy(&output.stdout).into_owned()))
}

fn serve_as(name: &str, id: u64, text: &str, out: &Out) -> std::io::Result<()> {
    let mut child = shell(text).spawn()?;
    out.say(&json!({"id": id, "pid": child.id()}));
    if let Some(said) = child.stdout.take() {
        lines_of(said, |line| out.say(&json!({"of": name, "line": line})));
    }
    let status = child.wait()?;
    out.say(&json!({"of": name, "ended": number_of(status)}));
    Ok(())
}

fn lines_of(said: impl Read, mut each: impl FnMut(&str)) {
    let mut said = BufReader::new(said);
    let mut line = Vec::new();
    while said.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        each(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
}
