//! The proxy itself, as users run it.

use std::{
    net::SocketAddr,
    process::{Command, ExitStatus},
    time::Duration,
};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::{
    binary, http,
    netns::Namespace,
    nginx::{Nginx, heartbeat},
    process::Process,
    wait::{LIMIT, wait_for, wait_for_some},
};

/// A running proxy.
pub struct Proxy {
    /// The process, with its log.
    pub process: Process,
    rtmp: SocketAddr,
    http: SocketAddr,
    http_api: SocketAddr,
    webrtc: SocketAddr,
    srt: SocketAddr,
    api: SocketAddr,
    _dir: TempDir,
}

impl Proxy {
    /// Starts a proxy with the default settings on free ports.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts a proxy with further settings.
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        Self::run(Command::new(binary::path()), settings)
    }

    /// Starts a proxy in a namespace.
    pub fn start_in(namespace: &Namespace, settings: &[(&str, &str)]) -> Self {
        Self::run(namespace.command(binary::path()), settings)
    }

    fn run(mut command: Command, settings: &[(&str, &str)]) -> Self {
        // An empty directory, because the proxy reads `.env` where it is started.
        let dir = tempfile::tempdir().unwrap();
        command.current_dir(dir.path());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PROXY_")) {
            command.env_remove(name);
        }
        for listener in ["RTMP_SERVER", "HTTP_SERVER", "HTTP_API", "WEBRTC_SERVER", "SRT_SERVER", "SYSTEM_API"] {
            command.env(format!("PROXY_{listener}"), "127.0.0.1:0");
        }
        command.envs(settings.iter().copied());
        let mut process = Process::spawn("srs-proxy", &command);
        let [rtmp, http, http_api, webrtc, srt, api] = wait_for_some("the proxy says where it listens", LIMIT, || {
            process.assert_running();
            addresses(&(process.stdout() + &process.stderr()))
        });
        Self { process, rtmp, http, http_api, webrtc, srt, api, _dir: dir }
    }

    /// Starts a proxy with origins registered.
    pub fn start_before(origins: &[&Nginx], settings: &[(&str, &str)]) -> Self {
        let proxy = Self::start_with(settings);
        for origin in origins {
            proxy.register(origin);
        }
        proxy
    }

    /// The address of its RTMP server.
    pub fn rtmp(&self) -> SocketAddr {
        self.rtmp
    }

    /// The address of its server of HTTP streams.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// The address of its HTTP API, where WebRTC is signalled.
    pub fn http_api(&self) -> SocketAddr {
        self.http_api
    }

    /// Where it takes WebRTC media.
    pub fn webrtc(&self) -> SocketAddr {
        self.webrtc
    }

    /// The address of its SRT server.
    pub fn srt(&self) -> SocketAddr {
        self.srt
    }

    /// The address of its system API.
    pub fn api(&self) -> SocketAddr {
        self.api
    }

    /// The URL of a stream.
    pub fn url(&self, path: &str) -> String {
        format!("rtmp://{}/{path}", self.rtmp)
    }

    /// Registers an origin as SRS does.
    pub fn register(&self, origin: &Nginx) {
        self.register_heartbeat(&origin.heartbeat());
    }

    /// Registers what says of itself that it listens there.
    pub fn register_address(&self, rtmp: SocketAddr) {
        self.register_heartbeat(&heartbeat(&format!("vid-{}", rtmp.port()), "run-1", 1, rtmp));
    }

    /// Registers what this heartbeat says.
    pub fn register_heartbeat(&self, heartbeat: &str) {
        let answer = http::post(self.api, "/api/v1/srs/register", heartbeat).unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// Asks the system API.
    pub fn get(&self, path: &str) -> Value {
        let answer = http::get(self.api, path).unwrap();
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        serde_json::from_str(&answer.body).unwrap_or_else(|e| panic!("{path}: {e}: {answer:?}"))
    }

    /// The origins that it lists.
    pub fn origins(&self) -> Vec<Value> {
        self.list("origins")
    }

    /// The streams that it lists.
    pub fn streams(&self) -> Vec<Value> {
        self.list("streams")
    }

    /// The sessions that it lists.
    pub fn sessions(&self) -> Vec<Value> {
        self.list("sessions")
    }

    /// How an origin stands, if it is listed.
    pub fn origin_state(&self, id: &str) -> Option<String> {
        let origin = self.origins().into_iter().find(|origin| origin["id"] == id)?;
        Some(origin["state"].as_str().expect("the origin's state").to_owned())
    }

    fn list(&self, what: &str) -> Vec<Value> {
        let mut answer = self.get(&format!("/api/v1/proxy/{what}"));
        match answer[what].take() {
            Value::Array(list) => list,
            other => panic!("no list of {what}: {other}"),
        }
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        plain(&(self.process.stdout() + &self.process.stderr()))
    }

    /// Waits until a log line contains all of the words.
    pub fn wait_for_log(&self, words: &[&str]) {
        wait_for(&format!("a log line with {words:?}"), LIMIT, || {
            self.log().lines().any(|line| words.iter().all(|word| line.contains(word)))
        });
    }

    /// Memory in use, in bytes.
    pub fn memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kib * 1024
    }

    /// Files and sockets that it has open.
    pub fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process.id())).unwrap().count()
    }

    /// Asks it to end, as a service manager does.
    pub fn terminate(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Waits for its end.
    pub fn wait_exit(&mut self, limit: Duration) -> ExitStatus {
        self.process.wait_exit(limit)
    }
}

/// The addresses in the line that says that the proxy listens.
fn addresses(log: &str) -> Option<[SocketAddr; 6]> {
    let log = plain(log);
    let line = log.lines().find(|line| line.contains("listening") && line.contains("system_api="))?;
    let field = |name: &str| {
        let value = line.split_whitespace().find_map(|word| word.strip_prefix(name))?;
        value.trim_matches('"').parse().ok()
    };
    let names = ["rtmp=", "http=", "http_api=", "webrtc=", "srt=", "system_api="];
    names.map(field).into_iter().collect::<Option<Vec<_>>>()?.try_into().ok()
}

/// Removes terminal colours.
fn plain(text: &str) -> String {
    let mut parts = text.split("\u{1b}[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |plain, part| plain + part.split_once('m').map_or(part, |(_, rest)| rest))
}
