//! The table of settings: the one place where a setting's name, default, help and rule stand. The
//! flags, the loader, the warning about unknown names and `deploy/srs-proxy.env` all come from it.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use super::{
    AuthType, BalancerType, Listen, LogFormat, Policy, RealIp, Secret, Seed,
    value::{self, Rule},
};
use crate::{origin::Endpoint, stream::Vhosts};

/// A setting whose value is a `T`.
pub struct Key<T: 'static> {
    /// What is told to people about it.
    pub spec: Spec,
    pub(super) rule: &'static Rule<T>,
}

/// What is told to people about a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spec {
    /// The name in the environment and in `.env`.
    pub name: &'static str,
    /// The value where none is set, as text.
    pub default: &'static str,
    /// What the setting does, in one paragraph.
    pub help: &'static str,
    /// What is allowed, in words that follow "expected".
    pub allowed: &'static str,
    /// Whether the value must never be shown.
    pub secret: bool,
    /// The heading under which it stands in the help and in `deploy/srs-proxy.env`.
    pub group: &'static str,
}

impl Spec {
    /// The name as a command-line flag, without the dashes: `rtmp-server` for `PROXY_RTMP_SERVER`.
    pub fn flag(&self) -> String {
        self.name.trim_start_matches(PREFIX).to_ascii_lowercase().replace('_', "-")
    }
}

/// What the names of all settings begin with.
pub const PREFIX: &str = "PROXY_";

/// Beginnings of names that are not ours, or not yet, and that nobody need be warned about: settings
/// of balancers that come later, and what Kubernetes sets in every container of a namespace that has
/// a service named `proxy`.
const KNOWN_ELSEWHERE: [&str; 2] = ["PROXY_SERVICE_", "PROXY_PORT_"];

/// The normalized Damerau-Levenshtein similarity, from 0 to 1, from which a name is suggested.
const MIN_SIMILARITY: f64 = 0.7;

macro_rules! keys {
    ($($group:literal { $($name:ident: $type:ty = $default:literal, $rule:path, $help:literal;)+ })+) => {
        $($(
            #[doc = $help]
            pub static $name: Key<$type> = Key {
                spec: Spec {
                    name: stringify!($name),
                    default: $default,
                    help: $help,
                    allowed: $rule.allowed,
                    secret: $rule.secret,
                    group: $group,
                },
                rule: &$rule,
            };
        )+)+

        /// All settings, in the order in which people read them.
        pub static ALL: &[&Spec] = &[$($(&$name.spec,)+)+];
    };
}

keys! {
    "Listeners" {
        PROXY_RTMP_SERVER: Listen = "11935", value::LISTEN,
            "Where RTMP clients publish and play. A port alone means all addresses, IPv4 and IPv6.";
        PROXY_HTTP_API: Listen = "11985", value::LISTEN,
            "Where the HTTP API of the origins is answered for all of them together, as one SRS would.";
        PROXY_HTTP_SERVER: Listen = "18080", value::LISTEN,
            "Where HTTP streams (FLV, TS, HLS, DASH) are played.";
        PROXY_WEBRTC_SERVER: Listen = "18000", value::LISTEN,
            "Where WebRTC media arrive, over UDP. The offers come to PROXY_HTTP_API.";
        PROXY_SRT_SERVER: Listen = "20080", value::LISTEN,
            "Where SRT clients publish and play, over UDP.";
        PROXY_SYSTEM_API: Listen = "12025", value::LISTEN,
            "Where origins register themselves and where people and probes look at this node. Keep it inside \
             your own network.";
        PROXY_EXPORTER_LISTEN: Option<Listen> = "", value::OPTIONAL_LISTEN,
            "Where Prometheus finds the metrics, besides /metrics of the system API. There they need a token where \
             the APIs do; here they never do.";
        PROXY_STATIC_FILES: Option<PathBuf> = "", value::PATH,
            "A directory of files, such as web players, to serve beside the HTTP streams. Empty for none.";
    }
    "RTMP" {
        PROXY_RTMP_REAL_IP: RealIp = "auto", value::REAL_IP,
            "Whether origins are told the address of the client, in front of the handshake, in a way that only \
             SRS understands. auto tells those that register as SRS.";
        PROXY_RTMP_HANDSHAKE_TIMEOUT: Duration = "10s", value::DURATION,
            "How long a client may take for the handshake.";
        PROXY_RTMP_COMMAND_TIMEOUT: Duration = "30s", value::DURATION,
            "How long a client may take from the end of the handshake until it publishes or plays.";
        PROXY_RTMP_IDLE_TIMEOUT: Duration = "300s", value::DURATION,
            "How long a session may go without one byte in either direction.";
        PROXY_RTMP_SEND_TIMEOUT: Duration = "30s", value::DURATION,
            "How long a client or origin may leave bytes waiting without taking any.";
        PROXY_RTMP_MAX_CONNECTIONS: usize = "20000", value::CONNECTIONS,
            "RTMP clients at once. Each takes two files (sockets) of the process, one of them towards the origin.";
        PROXY_RTMP_MAX_CONNECTIONS_PER_IP: usize = "4096", value::CONNECTIONS,
            "RTMP clients at once from one address.";
    }
    "HTTP streams" {
        PROXY_HTTP_HEADER_TIMEOUT: Duration = "10s", value::DURATION,
            "How long a client may take for the header of a request.";
        PROXY_HTTP_ANSWER_TIMEOUT: Duration = "30s", value::DURATION,
            "How long an origin may take to begin its answer. SRS begins to answer for a progressive stream once \
             somebody publishes it.";
        PROXY_HTTP_IDLE_TIMEOUT: Duration = "300s", value::DURATION,
            "How long an origin may send nothing in the middle of an answer.";
        PROXY_HTTP_SEND_TIMEOUT: Duration = "30s", value::DURATION,
            "How long a client may leave an answer waiting while it takes next to nothing of it.";
        PROXY_HTTP_KEEPALIVE_TIMEOUT: Duration = "60s", value::DURATION,
            "How long a client's connection may wait for its next request.";
        PROXY_HTTP_STREAM_IDLE: Duration = "30s", value::DURATION,
            "How long a node remembers the origin of a stream that is fetched piece by piece (HLS, DASH) after the \
             last piece.";
        PROXY_HTTP_MAX_CONNECTIONS: usize = "20000", value::CONNECTIONS,
            "Clients at once. Each may take two files (sockets) of the process, one of them towards the origin.";
        PROXY_HTTP_MAX_CONNECTIONS_PER_IP: usize = "4096", value::CONNECTIONS,
            "Clients at once from one address.";
    }
    "HTTP API" {
        PROXY_HTTP_API_TIMEOUT: Duration = "3s", value::DURATION,
            "How long origins may take to answer what this node asks them for a caller. One that takes longer is \
             named in the answer.";
        PROXY_HTTP_API_MAX_CONNECTIONS: usize = "1024", value::CONNECTIONS,
            "Connections to the HTTP API at once.";
    }
    "WebRTC" {
        PROXY_WEBRTC_CANDIDATE: Vec<String> = "", value::CANDIDATES,
            "Under which addresses clients reach PROXY_WEBRTC_SERVER, besides the one on which they reached \
             PROXY_HTTP_API. Needed behind NAT, a load balancer or a proxy that ends TLS.";
        PROXY_WEBRTC_ANSWER_TIMEOUT: Duration = "10s", value::DURATION,
            "How long an origin may take to answer an offer.";
        PROXY_WEBRTC_IDLE_TIMEOUT: Duration = "30s", value::DURATION,
            "How long a client may send nothing, from its offer on, until its session ends.";
        PROXY_WEBRTC_MAX_SESSIONS: usize = "20000", value::CONNECTIONS,
            "WebRTC sessions at once. Each takes one file (socket) of the process, towards the origin.";
        PROXY_WEBRTC_MAX_SESSIONS_PER_IP: usize = "4096", value::CONNECTIONS,
            "WebRTC sessions at once from one address.";
    }
    "SRT" {
        PROXY_SRT_ANSWER_TIMEOUT: Duration = "1s", value::DURATION,
            "How long an origin may take to answer each of the two steps of the handshake. Callers wait 3 s in all \
             where they are not told otherwise, and a second origin may have to be tried.";
        PROXY_SRT_IDLE_TIMEOUT: Duration = "10s", value::DURATION,
            "How long a client may send nothing until its session ends. Clients that have nothing to say send a \
             sign of life every second.";
        PROXY_SRT_MAX_SESSIONS: usize = "20000", value::CONNECTIONS,
            "SRT sessions at once. Each takes one file (socket) of the process, towards the origin.";
        PROXY_SRT_MAX_SESSIONS_PER_IP: usize = "4096", value::CONNECTIONS,
            "SRT sessions at once from one address.";
    }
    "UDP" {
        PROXY_UDP_BUFFER: usize = "4194304", value::SOCKET_BUFFER,
            "Bytes that the system keeps for a listener of WebRTC or SRT until they are read, and until they are \
             sent, for each worker thread. The system may allow less (net.core.rmem_max, net.core.wmem_max), \
             which is logged.";
    }
    "Streams" {
        PROXY_VHOSTS: Vhosts = "", value::VHOSTS,
            "The vhosts that your origins tell apart. If set, a stream of any other vhost belongs to \
             __defaultVhost__, as in SRS. If empty, every vhost stands for itself.";
    }
    "Placement" {
        PROXY_LOAD_BALANCER_TYPE: BalancerType = "memory", value::BALANCER,
            "What nodes agree through on origins and streams. memory: this node stands alone. redis: any number of \
             nodes, those of the Go proxy included, that use one Redis. mesh: nodes tell and ask each other.";
        PROXY_ORIGIN_SERVER_TTL: Duration = "300s", value::DURATION,
            "How long an origin counts as registered after its last heartbeat.";
        PROXY_PLACEMENT_POLICY: Policy = "power-of-two", value::POLICY,
            "How the origin of a fresh stream is chosen. power-of-two: the less loaded of two drawn at random; \
             random: any.";
        PROXY_PLACEMENT_HOLD: Duration = "60s", value::DURATION,
            "How long a stream stays with its origin after its last client has gone.";
        PROXY_MAX_ORIGINS: usize = "1024", value::ENTRIES,
            "Registered origins at once.";
        PROXY_MAX_STREAMS: usize = "100000", value::ENTRIES,
            "Placed streams at once.";
    }
    "Redis" {
        PROXY_REDIS_HOST: String = "127.0.0.1", value::HOST,
            "The address or host name of the Redis server.";
        PROXY_REDIS_PORT: u16 = "6379", value::PORT,
            "The port of the Redis server.";
        PROXY_REDIS_USERNAME: Option<String> = "", value::USER,
            "The user as whom to log in (Redis 6 and later). If empty, only the password is shown.";
        PROXY_REDIS_PASSWORD: Option<Secret> = "", value::TOKEN,
            "The password to log in with. Set it in the environment or in .env: other users of the machine can \
             read a flag in the list of processes.";
        PROXY_REDIS_DB: u32 = "0", value::DATABASE,
            "The number of the database.";
        PROXY_REDIS_KEY_PREFIX: String = "", value::KEY_PREFIX,
            "What all keys begin with, so that several clusters can share one Redis.";
        PROXY_REDIS_TLS: bool = "off", value::SWITCH,
            "Whether connections to Redis, and to its Sentinels, are encrypted.";
        PROXY_REDIS_TLS_CA: Option<PathBuf> = "", value::FILE,
            "The certificates, in a PEM file, of those who may sign the server's. If empty, those that the system \
             trusts.";
        PROXY_REDIS_TLS_CERT: Option<PathBuf> = "", value::FILE,
            "The certificate that this node shows, in a PEM file, where the server asks for one.";
        PROXY_REDIS_TLS_KEY: Option<PathBuf> = "", value::FILE,
            "The private key of PROXY_REDIS_TLS_CERT, in a PEM file.";
        PROXY_REDIS_URL: Option<Secret> = "", value::REDIS_URL,
            "One server with user, password and database, in place of the settings for each of them.";
        PROXY_REDIS_CLUSTER: Vec<(String, u16)> = "", value::SERVERS,
            "Some nodes of a Redis Cluster, in place of one server. They tell of the others.";
        PROXY_REDIS_SENTINEL: Vec<(String, u16)> = "", value::SERVERS,
            "Redis Sentinels, in place of one server. They tell which server is the master.";
        PROXY_REDIS_SENTINEL_MASTER: String = "mymaster", value::MASTER,
            "The name by which the Sentinels know the master.";
        PROXY_REDIS_SENTINEL_PASSWORD: Option<Secret> = "", value::TOKEN,
            "The password of the Sentinels themselves, if they have one.";
        PROXY_REDIS_TIMEOUT: Duration = "1s", value::DURATION,
            "How long Redis may take to answer, and to be connected to. Then it counts as away: known streams are \
             served from memory, new ones are refused.";
    }
    "Mesh" {
        PROXY_MESH_NODE_ID: Option<String> = "", value::OPTIONAL_NAME,
            "The name of this node, which no other node has and which a restart does not change. If empty, the \
             host name.";
        PROXY_MESH_CLUSTER_ID: String = "srs-proxy", value::NAME,
            "The name of the mesh. Nodes of another name are ignored.";
        PROXY_MESH_GOSSIP_LISTEN: Listen = "12026", value::LISTEN,
            "Where other nodes tell their news, over UDP. Keep it inside your own network.";
        PROXY_MESH_GRPC_LISTEN: Listen = "12027", value::LISTEN,
            "Where other nodes ask this node. Keep it inside your own network.";
        PROXY_MESH_ADVERTISE_HOST: Option<String> = "", value::OPTIONAL_HOST,
            "The address or name under which other nodes reach this node. If empty, the address that it listens \
             on, or else the one from which it reaches the first seed.";
        PROXY_MESH_SEEDS: Vec<Seed> = "", value::SEEDS,
            "Gossip addresses of some nodes, through which this node finds all others. It may be among them \
             itself. A name may stand for many addresses; it is looked up again and again.";
        PROXY_MESH_KEY: Option<Secret> = "", value::MESH_KEY,
            "The secret that the nodes share: what they send each other is encrypted and authenticated with it. \
             Make one with: openssl rand -base64 32.";
        PROXY_MESH_KEY_PREVIOUS: Option<Secret> = "", value::MESH_KEY,
            "A second key, which this node accepts but does not use. To change the key, restart the nodes \
             one by one three times: first with the new key here, then with the new key as PROXY_MESH_KEY and the \
             old one here, then without the old one.";
        PROXY_MESH_INSECURE: bool = "off", value::SWITCH,
            "Whether the mesh may run without a key although others than this machine can reach its listeners. \
             Whoever can send it a packet can then say what he likes.";
        PROXY_MESH_GOSSIP_INTERVAL: Duration = "250ms", value::DURATION,
            "How often a node tells its news. A node that is silent for some eight intervals counts as dead. The \
             same for all nodes.";
        PROXY_MESH_RPC_TIMEOUT: Duration = "300ms", value::DURATION,
            "How long another node may take to answer before it is passed over.";
        PROXY_MESH_RENEW_INTERVAL: Duration = "5s", value::DURATION,
            "How often a node tells which streams its sessions use. The same for all nodes.";
        PROXY_MESH_JOIN_TIMEOUT: Duration = "5s", value::DURATION,
            "How long a starting node looks for others before it serves alone.";
    }
    "Connections to origins" {
        PROXY_ORIGIN_CONNECT_TIMEOUT: Duration = "2s", value::DURATION,
            "How long name resolution and connecting may take, for each origin tried.";
        PROXY_ORIGIN_ANSWER_TIMEOUT: Duration = "3s", value::DURATION,
            "How long an origin may take to answer the handshake, and again to answer the first commands. One \
             that connects but does not answer counts as dead.";
        PROXY_ORIGIN_MAX_ATTEMPTS: usize = "3", value::ATTEMPTS,
            "How many origins are tried for one client.";
        PROXY_ORIGIN_PROBE_INTERVAL: Duration = "5s", value::DURATION,
            "How often an origin that failed is probed, until it answers again.";
        PROXY_ORIGIN_HTTP_KEEPALIVE: Duration = "15s", value::DURATION,
            "How long an HTTP connection to an origin is kept for the next request.";
        PROXY_ORIGIN_HTTP_MAX_IDLE: usize = "64", value::CONNECTIONS,
            "HTTP connections to one origin that are kept for the next request, for each worker thread.";
    }
    "Default backend" {
        PROXY_DEFAULT_BACKEND_ENABLED: bool = "off", value::SWITCH,
            "Whether one origin is registered by these settings, for a server that sends no heartbeat of its own, \
             such as nginx-rtmp.";
        PROXY_DEFAULT_BACKEND_IP: String = "127.0.0.1", value::HOST,
            "The address or host name of the default backend.";
        PROXY_DEFAULT_BACKEND_RTMP: Endpoint = "1935", value::ENDPOINT,
            "Where the default backend serves RTMP.";
        PROXY_DEFAULT_BACKEND_HTTP: Option<Endpoint> = "", value::OPTIONAL_ENDPOINT,
            "Where the default backend serves HTTP streams; empty if it does not.";
        PROXY_DEFAULT_BACKEND_API: Option<Endpoint> = "1985", value::OPTIONAL_ENDPOINT,
            "Where the default backend serves its HTTP API.";
        PROXY_DEFAULT_BACKEND_RTC: Option<Endpoint> = "8000", value::OPTIONAL_ENDPOINT,
            "Where the default backend takes WebRTC media, over UDP.";
        PROXY_DEFAULT_BACKEND_SRT: Option<Endpoint> = "10080", value::OPTIONAL_ENDPOINT,
            "Where the default backend serves SRT, over UDP.";
    }
    "System API and token" {
        PROXY_HTTP_API_AUTH_ENABLED: bool = "off", value::SWITCH,
            "Whether callers of the system API and of the HTTP API must show a token; those who ask for health \
             need none. If on, the type and the token must be set too.";
        PROXY_HTTP_API_AUTH_TYPE: Option<AuthType> = "", value::AUTH_TYPE,
            "How callers show the token. bearer: in the header Authorization: Bearer TOKEN.";
        PROXY_HTTP_API_AUTH_TOKEN: Option<Secret> = "", value::TOKEN,
            "The token that callers must show. Set it in the environment or in .env: other users of the machine \
             can read a flag in the list of processes.";
        PROXY_SYSTEM_API_TIMEOUT: Duration = "10s", value::DURATION,
            "How long one request may take, its header and body included.";
        PROXY_SYSTEM_API_MAX_CONNECTIONS: usize = "1024", value::CONNECTIONS,
            "Connections to the system API at once.";
    }
    "Process" {
        PROXY_GRACE_QUIT_TIMEOUT: Duration = "20s", value::DURATION,
            "How long sessions may go on after the first SIGTERM or SIGINT. Then they are closed.";
        PROXY_FORCE_QUIT_TIMEOUT: Duration = "30s", value::DURATION,
            "How long after the first SIGTERM or SIGINT the process ends, whatever is left. Not shorter than \
             PROXY_GRACE_QUIT_TIMEOUT.";
        PROXY_WORKER_THREADS: Option<NonZeroUsize> = "0", value::THREADS,
            "Threads that move bytes. 0 means one for each core that the process may use.";
        PROXY_LOG_LEVEL: String = "info", value::LOG_FILTER,
            "What is logged, on standard error: a level, or a level for each module or span.";
        PROXY_LOG_FORMAT: LogFormat = "text", value::LOG_FORMAT,
            "How it is logged: text for people, json for one object a line.";
    }
}

/// What to say about a name that looks like a setting but is none; nothing if the name is a setting
/// or not ours.
pub fn unknown(name: &str) -> Option<String> {
    let ours = name.starts_with(PREFIX) && !KNOWN_ELSEWHERE.iter().any(|prefix| name.starts_with(prefix));
    if !ours || ALL.iter().any(|key| key.name == name) {
        return None;
    }
    let nearest = ALL
        .iter()
        .map(|key| (key.name, strsim::normalized_damerau_levenshtein(suffix(name), suffix(key.name))))
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .filter(|(_, similarity)| *similarity >= MIN_SIMILARITY);
    let name: String = name.escape_debug().take(100).collect();
    Some(match nearest {
        Some((nearest, _)) => format!("{name} is no setting and is ignored; did you mean {nearest}?"),
        None => format!("{name} is no setting and is ignored; srs-proxy --help lists the settings"),
    })
}

/// The prefix that all names share would make all of them alike.
fn suffix(name: &str) -> &str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_has_a_name_of_its_own_and_a_help_to_read() {
        let mut names: Vec<_> = ALL.iter().map(|key| key.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for key in ALL {
            assert!(key.name.starts_with(PREFIX), "{}", key.name);
            assert!(key.help.ends_with('.') && !key.help.contains("  "), "{}: {}", key.name, key.help);
            assert!(!key.allowed.is_empty(), "{}", key.name);
        }
    }

    #[test]
    fn groups_are_not_scattered() {
        let mut groups: Vec<_> = ALL.iter().map(|key| key.group).collect();
        groups.dedup();
        let listed = groups.len();
        groups.sort_unstable();
        groups.dedup();
        assert_eq!(groups.len(), listed);
    }

    #[test]
    fn a_misspelt_name_is_told_with_the_name_that_was_meant() {
        for (name, meant) in [
            ("PROXY_RTMP_SERVR", "PROXY_RTMP_SERVER"),
            ("PROXY_SYSTEM_APi", "PROXY_SYSTEM_API"),
            ("PROXY_LOADBALANCER_TYPE", "PROXY_LOAD_BALANCER_TYPE"),
            ("PROXY_DEFAULT_BACKEND_RTPM", "PROXY_DEFAULT_BACKEND_RTMP"),
            ("PROXY_RTMP_MAX_CONNECTION", "PROXY_RTMP_MAX_CONNECTIONS"),
        ] {
            assert_eq!(unknown(name), Some(format!("{name} is no setting and is ignored; did you mean {meant}?")));
        }
    }

    #[test]
    fn a_name_that_is_like_no_other_is_told_without_a_guess() {
        let told = unknown("PROXY_COLOUR\n").unwrap();
        assert_eq!(told, "PROXY_COLOUR\\n is no setting and is ignored; srs-proxy --help lists the settings");
    }

    #[test]
    fn names_of_others_and_of_later_versions_are_left_alone() {
        for name in
            ["PATH", "GO_PPROF", "PROXY_REDIS_HOST", "PROXY_MESH_SEEDS", "PROXY_SERVICE_PORT", "PROXY_RTMP_SERVER"]
        {
            assert_eq!(unknown(name), None);
        }
    }
}
