//! The configuration, as typed values. Where they come from is the loader.

pub mod cli;
pub mod dotenv;
pub mod env_file;
pub mod keys;
pub mod load;
mod mesh;
mod redis;
pub mod sources;
pub mod status_target;
mod value;

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroUsize,
    path::PathBuf,
    time::Duration,
};

pub use load::Loaded;
pub use mesh::Mesh;
pub use redis::{Redis, RedisServer, RedisTls};

use crate::{origin::Endpoint, stream::Vhosts};

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The RTMP server.
    pub rtmp: Rtmp,
    /// The server of HTTP streams.
    pub http: Http,
    /// The HTTP API.
    pub api: Api,
    /// WebRTC.
    pub webrtc: Webrtc,
    /// SRT.
    pub srt: Srt,
    /// Bytes that a listener's socket keeps in each direction, for each worker thread.
    pub udp_buffer: usize,
    /// The system API.
    pub system: System,
    /// Where metrics are served besides the system API.
    pub exporter: Option<Listen>,
    /// How connections to origins are made.
    pub upstream: Upstream,
    /// Placement of streams.
    pub balancer: Balancer,
    /// How nodes find and trust each other where they agree by mesh.
    pub mesh: Mesh,
    /// The Redis through which nodes agree, if they do.
    pub redis: Redis,
    /// An origin that is registered by configuration.
    pub default_backend: Option<DefaultBackend>,
    /// The vhosts that are told apart.
    pub vhosts: Vhosts,
    /// Shutdown.
    pub drain: Drain,
    /// Logging.
    pub log: Log,
    /// Threads that serve; none means one for each core.
    pub worker_threads: Option<NonZeroUsize>,
}

/// The documented defaults of the settings.
impl Default for Config {
    fn default() -> Self {
        load::defaults()
    }
}

impl Default for Balancer {
    fn default() -> Self {
        Config::default().balancer
    }
}

impl Default for Mesh {
    fn default() -> Self {
        Config::default().mesh
    }
}

impl Default for Upstream {
    fn default() -> Self {
        Config::default().upstream
    }
}

/// Where to listen: a port on all addresses, or one address and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// The address or host name; none means all addresses, IPv6 and IPv4.
    pub host: Option<String>,
    /// The port; 0 lets the system choose.
    pub port: u16,
}

/// The gossip address of a node, or of many if the host is a name that stands for them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Seed {
    /// An address or a host name.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<Ipv6Addr>() {
            Ok(v6) => write!(f, "[{v6}]:{}", self.port),
            Err(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Whether origins are told the address of the client (`PROXY_RTMP_REAL_IP`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RealIp {
    /// Only origins that say they are SRS.
    Auto,
    /// All origins.
    On,
    /// None.
    Off,
}

/// The RTMP server. All limits are per node.
#[derive(Debug, Clone, PartialEq)]
pub struct Rtmp {
    /// Where to listen.
    pub listen: Listen,
    /// Whether origins learn the client's address.
    pub real_ip: RealIp,
    /// How long a client may take for the handshake.
    pub handshake_timeout: Duration,
    /// How long a client may take from the handshake to publish or play.
    pub command_timeout: Duration,
    /// How long a session may go without one byte in either direction.
    pub idle_timeout: Duration,
    /// How long a peer may leave bytes waiting without taking any.
    pub send_timeout: Duration,
    /// Connections at once.
    pub max_connections: usize,
    /// Connections at once from one address.
    pub max_connections_per_ip: usize,
}

/// How connections to origins are made.
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// How long name resolution and connecting may take, for each origin tried.
    pub connect_timeout: Duration,
    /// How long an origin may take to answer the handshake, and again the first commands.
    pub answer_timeout: Duration,
    /// How many origins are tried for one client.
    pub max_attempts: usize,
    /// How often a suspect origin is probed.
    pub probe_interval: Duration,
    /// How long an HTTP connection is kept for the next request.
    pub http_keepalive: Duration,
    /// HTTP connections to one origin that each worker keeps for the next request.
    pub http_max_idle: usize,
}

/// The server of HTTP streams. All limits are per node.
#[derive(Debug, Clone, PartialEq)]
pub struct Http {
    /// Where to listen.
    pub listen: Listen,
    /// Files served beside the streams.
    pub static_files: Option<PathBuf>,
    /// How long a client may take for the header of a request.
    pub header_timeout: Duration,
    /// How long an origin may take to begin its answer.
    pub answer_timeout: Duration,
    /// How long an origin may send nothing in the middle of an answer.
    pub idle_timeout: Duration,
    /// How long a client may leave an answer waiting while it takes next to nothing of it.
    pub send_timeout: Duration,
    /// How long a connection may wait for its next request.
    pub keepalive_timeout: Duration,
    /// How long the origin of a stream that is fetched in pieces is remembered after the last piece.
    pub stream_idle: Duration,
    /// Connections at once.
    pub max_connections: usize,
    /// Connections at once from one address.
    pub max_connections_per_ip: usize,
}

/// The HTTP API, which answers for all origins.
#[derive(Debug, Clone, PartialEq)]
pub struct Api {
    /// Where to listen.
    pub listen: Listen,
    /// The bearer token that callers must show, if any.
    pub token: Option<Secret>,
    /// How long origins may take to answer.
    pub timeout: Duration,
    /// Connections at once.
    pub max_connections: usize,
}

/// WebRTC: media by UDP, offers by the HTTP API. All limits are per node.
#[derive(Debug, Clone, PartialEq)]
pub struct Webrtc {
    /// Where media arrive.
    pub listen: Listen,
    /// Addresses and names under which clients reach it, besides the one that they use already.
    pub candidates: Vec<String>,
    /// How long an origin may take to answer an offer.
    pub answer_timeout: Duration,
    /// How long a client may send nothing.
    pub idle_timeout: Duration,
    /// Sessions at once.
    pub max_sessions: usize,
    /// Sessions at once from one address.
    pub max_sessions_per_ip: usize,
}

/// SRT. All limits are per node.
#[derive(Debug, Clone, PartialEq)]
pub struct Srt {
    /// Where to listen.
    pub listen: Listen,
    /// How long an origin may take for each step of the handshake.
    pub answer_timeout: Duration,
    /// How long a client may send nothing.
    pub idle_timeout: Duration,
    /// Sessions at once.
    pub max_sessions: usize,
    /// Sessions at once from one address.
    pub max_sessions_per_ip: usize,
}

/// The system API.
#[derive(Debug, Clone, PartialEq)]
pub struct System {
    /// Where to listen.
    pub listen: Listen,
    /// The bearer token that callers must show, if any.
    pub token: Option<Secret>,
    /// How long one request may take, its header and body included.
    pub timeout: Duration,
    /// Connections at once.
    pub max_connections: usize,
}

/// How callers of an API show who they are (`PROXY_HTTP_API_AUTH_TYPE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthType {
    /// A bearer token (RFC 6750).
    Bearer,
}

/// What nodes agree through (`PROXY_LOAD_BALANCER_TYPE`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BalancerType {
    /// One node, alone.
    Memory,
    /// Nodes that tell and ask each other.
    Mesh,
    /// Any number of nodes on one Redis, with nodes of the Go proxy among them.
    Redis,
}

impl BalancerType {
    /// The word in the configuration and in logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Mesh => "mesh",
            Self::Redis => "redis",
        }
    }
}

/// How an origin is chosen for a fresh stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// The less loaded of two chosen at random.
    PowerOfTwo,
    /// Any, at random.
    Random,
}

/// Placement of streams.
#[derive(Debug, Clone, PartialEq)]
pub struct Balancer {
    /// What nodes agree through.
    pub kind: BalancerType,
    /// How an origin is chosen.
    pub policy: Policy,
    /// How long an origin counts as registered after its last heartbeat.
    pub origin_ttl: Duration,
    /// How long a placement outlives its last session.
    pub placement_hold: Duration,
    /// How long a placement waits at the least for the client that asked for it: to connect to the
    /// origin before it holds the placement.
    pub connecting: Duration,
    /// Registered origins at once.
    pub max_origins: usize,
    /// Placed streams at once.
    pub max_streams: usize,
}

/// An origin that is registered by configuration (`PROXY_DEFAULT_BACKEND_*`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultBackend {
    /// Address or host name.
    pub ip: String,
    /// RTMP endpoint.
    pub rtmp: Endpoint,
    /// HTTP stream endpoint.
    pub http: Option<Endpoint>,
    /// HTTP API endpoint.
    pub api: Option<Endpoint>,
    /// WebRTC endpoint.
    pub rtc: Option<Endpoint>,
    /// SRT endpoint.
    pub srt: Option<Endpoint>,
}

/// Shutdown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drain {
    /// How long sessions may go on after the first signal.
    pub grace: Duration,
    /// How long after the first signal the process ends, whatever is left; not shorter than `grace`.
    pub force: Duration,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Logging.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// A level, or filter directives as `tracing` takes them.
    pub filter: String,
    /// How lines are written.
    pub format: LogFormat,
}

/// A text that never appears in logs or debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            None => write!(f, "[::]:{}", self.port),
            Some(host) if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            Some(host) => write!(f, "{host}:{}", self.port),
        }
    }
}

impl Listen {
    /// Whether the listener takes connections for every address of the machine.
    pub fn is_wildcard(&self) -> bool {
        self.host.as_deref().is_none_or(|h| h.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()))
    }

    /// Whether the listener can be reached from this machine only.
    pub fn is_loopback(&self) -> bool {
        self.host.as_deref().is_some_and(|h| h == "localhost" || h.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()))
    }
}

/// Why there is no configuration. The message is one line and holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A value is not allowed.
    #[error("{name}={value} ({from}): expected {allowed}")]
    Value {
        /// The setting.
        name: &'static str,
        /// The value, quoted and bounded; `***` for a secret.
        value: String,
        /// Where it was set.
        from: sources::SettingSource,
        /// What is allowed instead.
        allowed: &'static str,
    },
    /// Values that are allowed alone but not together.
    #[error("{0}")]
    Together(String),
    /// The `.env` file cannot be read.
    #[error(".env: {0}")]
    Dotenv(String),
}
