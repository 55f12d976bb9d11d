//! The real binary, in a directory of its own and with nothing in its environment but what a test
//! puts there.

use std::{
    env,
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Read},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

/// How long anything that should happen soon may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// The program under test: the one that was built with these tests.
pub fn path() -> PathBuf {
    for name in ["CARGO_BIN_EXE_srs-proxy", "NEXTEST_BIN_EXE_srs-proxy"] {
        if let Some(path) = env::var_os(name) {
            return path.into();
        }
    }
    // Test binaries are in `deps/` beside it.
    profile_directory().join("srs-proxy")
}

/// Where the build put the program, such as `target/debug`.
fn profile_directory() -> PathBuf {
    env::current_exe().unwrap().ancestors().nth(2).unwrap().to_owned()
}

/// A directory in that of the build that outlives a test, for what is costly to make.
pub fn temporary_directory() -> PathBuf {
    let directory = profile_directory().parent().unwrap().join("tmp");
    fs::create_dir_all(&directory).unwrap();
    directory
}

/// A command line that has not been run yet.
pub struct Start {
    command: Command,
    dir: TempDir,
}

/// How a process ended, and what it said.
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A process that runs, killed when the test ends.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
    _dir: TempDir,
}

/// The binary without settings.
pub fn binary() -> Start {
    program(path())
}

/// The binary on ports that the system chooses, and with a log that programs can read.
pub fn on_free_ports() -> Start {
    binary()
        .env("PROXY_RTMP_SERVER", "127.0.0.1:0")
        .env("PROXY_HTTP_SERVER", "127.0.0.1:0")
        .env("PROXY_HTTP_API", "127.0.0.1:0")
        .env("PROXY_SYSTEM_API", "127.0.0.1:0")
        .env("PROXY_WEBRTC_SERVER", "127.0.0.1:0")
        .env("PROXY_SRT_SERVER", "127.0.0.1:0")
        .env("PROXY_LOG_FORMAT", "json")
}

/// A shell script that ends with `exec ./srs-proxy`.
pub fn script(script: &str) -> Start {
    let start = program("sh").arg("-c").arg(script);
    std::os::unix::fs::symlink(path(), start.dir.path().join("srs-proxy")).unwrap();
    start.env("PATH", "/usr/bin:/bin")
}

fn program(program: impl AsRef<OsStr>) -> Start {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(program);
    command.env_clear().current_dir(dir.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    Start { command, dir }
}

impl Start {
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn arg(mut self, arg: &str) -> Self {
        self.command.arg(arg);
        self
    }

    /// Puts a `.env` file into the working directory.
    pub fn dotenv(self, text: &str) -> Self {
        fs::write(self.dir.path().join(".env"), text).unwrap();
        self
    }

    /// The working directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Runs the process, which must end by itself.
    pub fn run(self) -> Ended {
        let mut running = self.start();
        let mut stdout = running.child.stdout.take().unwrap();
        let reader = thread::spawn(move || {
            let mut text = String::new();
            stdout.read_to_string(&mut text).unwrap();
            text
        });
        let status = running.ended();
        Ended { status, stdout: reader.join().unwrap(), stderr: running.said.join("\n") }
    }

    /// Starts the process, which must go on until it is told to end.
    pub fn start(mut self) -> Running {
        let mut child = self.command.spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Running { child, lines, said: Vec::new(), _dir: self.dir }
    }
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of the log that holds `part`.
    #[track_caller]
    pub fn line(&mut self, part: &str) -> String {
        let limit = Instant::now() + SOON;
        loop {
            match self.lines.recv_timeout(limit.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.said.push(line.clone());
                    if line.contains(part) {
                        return line;
                    }
                }
                Err(e) => panic!("no line with {part:?} ({e}): {:#?}", self.said),
            }
        }
    }

    /// The next event of a JSON log with this message.
    #[track_caller]
    pub fn event(&mut self, message: &str) -> Value {
        let line = self.line(&format!("\"message\":\"{message}"));
        serde_json::from_str(&line).unwrap()
    }

    /// Waits for the start and gives the addresses of the RTMP server and of the system API.
    #[track_caller]
    pub fn listening(&mut self) -> (SocketAddr, SocketAddr) {
        let event = self.event("listening");
        (address(&event["rtmp"]), address(&event["system_api"]))
    }

    /// Sends a signal by its name without `SIG`.
    pub fn signal(&self, signal: &str) {
        let kill = format!("kill -{signal} {}", self.pid());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success(), "{kill}");
    }

    /// Waits for the process to end, and for the last line that it wrote.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let limit = Instant::now() + SOON;
        loop {
            match self.lines.recv_timeout(limit.saturating_duration_since(Instant::now())) {
                Ok(line) => self.said.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => return self.child.wait().unwrap(),
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("did not end: {:#?}", self.said),
            }
        }
    }

    /// All lines so far.
    pub fn said(&self) -> &[String] {
        &self.said
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address to connect to, for an address that is listened on.
#[track_caller]
fn address(listening: &Value) -> SocketAddr {
    let mut address: SocketAddr = listening.as_str().unwrap().parse().unwrap();
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    address
}
