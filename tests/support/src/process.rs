//! A child process whose output is kept, and which never outlives its test.

use std::{
    io::{ErrorKind, Read},
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

use super::wait::wait_for_some;

/// The last bytes of a failed test's processes that are worth reading.
const SHOWN: usize = 4_000;

/// A running program and what it has written so far.
pub struct Process {
    name: String,
    child: Child,
    stdout: Arc<Mutex<Vec<u8>>>,
    stderr: Arc<Mutex<Vec<u8>>>,
}

impl Process {
    /// Starts a program as the leader of its own process group. It is killed when this is dropped
    /// and, by the system, when the calling thread ends in any other way.
    pub fn spawn(name: impl Into<String>, command: &Command) -> Self {
        let program = command.get_program();
        let mut wrapped = Command::new("setpriv");
        wrapped.args(["--pdeathsig", "KILL", "--"]).arg(program).args(command.get_args());
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => wrapped.env(key, value),
                None => wrapped.env_remove(key),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            wrapped.current_dir(dir);
        }
        let name = name.into();
        let mut child = wrapped
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{name} cannot be started ({e}); tests/run.sh installs what the tests need"));
        let stdout = collect(child.stdout.take().unwrap());
        let stderr = collect(child.stderr.take().unwrap());
        Self { name, child, stdout, stderr }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        text(&self.stderr)
    }

    /// Sends a signal to the process and its children.
    pub fn signal(&self, signal: Signal) {
        kill_process_group(self.pid(), signal).unwrap_or_else(|e| panic!("{}: {signal:?}: {e}", self.name));
    }

    /// The exit status, if it has ended.
    pub fn try_exit(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits for the end of the process.
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        wait_for_some(&what, limit, || self.try_exit())
    }

    /// Panics if the process has ended.
    pub fn assert_running(&mut self) {
        if let Some(status) = self.try_exit() {
            panic!("{} ended early: {status}\n{}", self.name, self.stderr());
        }
    }

    /// Kills the process at once, as `kill -9` does, and reaps it.
    pub fn kill(&mut self) {
        if self.try_exit().is_none() {
            // The group can be gone between the look and the shot.
            let _ = kill_process_group(self.pid(), Signal::KILL);
            let _ = self.child.wait();
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            for (stream, output) in [("stdout", self.stdout()), ("stderr", self.stderr())] {
                let start = output.len().saturating_sub(SHOWN);
                let start = (start..=output.len()).find(|i| output.is_char_boundary(*i)).unwrap_or(0);
                eprintln!("--- {} {stream}\n{}", self.name, &output[start..]);
            }
        }
    }
}

fn text(bytes: &Mutex<Vec<u8>>) -> String {
    String::from_utf8_lossy(&bytes.lock().unwrap()).into_owned()
}

/// Collects output in the background, until the last holder of the pipe is gone.
fn collect(mut pipe: impl Read + Send + 'static) -> Arc<Mutex<Vec<u8>>> {
    let collected = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&collected);
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            match pipe.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => sink.lock().unwrap().extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
    });
    collected
}

/// How long something took, beside its result.
pub fn timed<T>(run: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    let result = run();
    (result, start.elapsed())
}
