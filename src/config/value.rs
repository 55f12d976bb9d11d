//! How the text of a setting becomes a value. Each rule says in words what it allows, for the help
//! and for the message that refuses a bad value.

use std::{net::IpAddr, num::NonZeroUsize, path::PathBuf, time::Duration};

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use tracing_subscriber::filter::{EnvFilter, LevelFilter};

use super::{AuthType, BalancerType, Listen, LogFormat, Policy, RealIp, Secret, Seed};
use crate::{
    origin::{Endpoint, is_host_name},
    stream::Vhosts,
};

/// The longest a timeout may be.
const MAX_DURATION: Duration = Duration::from_hours(24);
/// The shortest; timers are no finer than that.
const MIN_DURATION: Duration = Duration::from_millis(1);
/// The longest bearer token, in bytes. A request's header must hold it.
const MAX_TOKEN: usize = 4096;
/// The shortest key of a mesh, in bytes: 128 bits if drawn at random from all bytes, some 100 bits
/// from letters and digits.
const MIN_KEY: usize = 16;
/// The longest name of a node or of a cluster, in bytes.
const MAX_NAME: usize = 128;
/// The most addresses for WebRTC. Clients try each of them.
const MAX_CANDIDATES: usize = 16;
/// The most seeds.
const MAX_SEEDS: usize = 64;
/// The longest beginning of Redis keys, in bytes.
const MAX_KEY_PREFIX: usize = 128;

/// What a setting may be. The text that `parse` takes carries no white space at either end.
pub struct Rule<T> {
    /// The value, or nothing if the text is not allowed.
    pub parse: fn(&str) -> Option<T>,
    /// What is allowed, in words that follow "expected".
    pub allowed: &'static str,
    /// Whether the value must never be shown.
    pub secret: bool,
}

impl<T> Rule<T> {
    const fn new(allowed: &'static str, parse: fn(&str) -> Option<T>) -> Self {
        Self { parse, allowed, secret: false }
    }
}

/// A rule for whole numbers within bounds.
macro_rules! whole_number {
    ($min:literal, $max:literal) => {
        Rule::new(concat!("a whole number from ", $min, " to ", $max), |text| whole_number(text, $min, $max))
    };
}

/// Where to listen.
pub const LISTEN: Rule<Listen> = Rule::new(
    "PORT, :PORT, HOST:PORT or [IPV6]:PORT, with a port from 1 to 65535, or 0 to let the system choose",
    listen,
);
/// Where to listen, if at all.
pub const OPTIONAL_LISTEN: Rule<Option<Listen>> = Rule::new(
    "empty, PORT, :PORT, HOST:PORT or [IPV6]:PORT, with a port from 1 to 65535, or 0 to let the system choose",
    |text| optional(text, listen),
);
/// How long something may take.
pub const DURATION: Rule<Duration> =
    Rule::new("a duration from 1ms to 24h, such as 500ms, 20s, 1.5s or 1m30s", duration);
/// How many connections there may be.
pub const CONNECTIONS: Rule<usize> = whole_number!(1, 1_000_000);
/// How many things may be remembered.
pub const ENTRIES: Rule<usize> = whole_number!(1, 10_000_000);
/// How often something is tried.
pub const ATTEMPTS: Rule<usize> = whole_number!(1, 100);
/// How many threads work.
pub const THREADS: Rule<Option<NonZeroUsize>> =
    Rule::new("a whole number from 1 to 1024, or 0 for one per core", |text| {
        whole_number(text, 0, 1024).map(NonZeroUsize::new)
    });
/// How large the buffer of a socket is, in bytes.
pub const SOCKET_BUFFER: Rule<usize> = whole_number!(65_536, 1_073_741_824);
/// Addresses or names under which clients reach this node.
pub const CANDIDATES: Rule<Vec<String>> =
    Rule::new("at most 16 IP addresses or host names with commas between them, or empty", candidates);
/// On or off.
pub const SWITCH: Rule<bool> = Rule::new("on or off", |text| choice(text, &[("on", true), ("off", false)]));
/// Whether origins learn the client's address.
pub const REAL_IP: Rule<RealIp> = Rule::new("auto, on or off", |text| {
    choice(text, &[("auto", RealIp::Auto), ("on", RealIp::On), ("off", RealIp::Off)])
});
/// What nodes agree through.
pub const BALANCER: Rule<BalancerType> = Rule::new("memory, redis or mesh", |text| {
    choice(text, &[("memory", BalancerType::Memory), ("redis", BalancerType::Redis), ("mesh", BalancerType::Mesh)])
});
/// How an origin is chosen.
pub const POLICY: Rule<Policy> = Rule::new("power-of-two or random", |text| {
    choice(text, &[("power-of-two", Policy::PowerOfTwo), ("random", Policy::Random)])
});
/// How callers of an API show who they are.
pub const AUTH_TYPE: Rule<Option<AuthType>> = Rule::new("bearer, or empty while authentication is off", |text| {
    optional(text, |text| choice(text, &[("bearer", AuthType::Bearer)]))
});
/// A bearer token.
pub const TOKEN: Rule<Option<Secret>> = Rule {
    parse: |text| optional(text, |text| is_token(text).then(|| Secret::new(text))),
    allowed: "at most 4096 printable ASCII characters",
    secret: true,
};
/// The name of a cluster.
pub const NAME: Rule<String> =
    Rule::new("at most 128 ASCII letters, digits, '.', '_' and '-'", |text| is_name(text).then(|| text.to_owned()));
/// The name of a node.
pub const OPTIONAL_NAME: Rule<Option<String>> =
    Rule::new("empty, or at most 128 ASCII letters, digits, '.', '_' and '-'", |text| {
        optional(text, |text| is_name(text).then(|| text.to_owned()))
    });
/// Where other nodes may be found.
pub const SEEDS: Rule<Vec<Seed>> =
    Rule::new("at most 64 of HOST:PORT or [IPV6]:PORT with commas between them, or empty", seeds);
/// The key that the nodes of a mesh share.
pub const MESH_KEY: Rule<Option<Secret>> = Rule {
    parse: |text| optional(text, |text| (is_token(text) && text.len() >= MIN_KEY).then(|| Secret::new(text))),
    allowed: "16 to 4096 printable ASCII characters, or empty",
    secret: true,
};
/// An address or name that may be found out instead.
pub const OPTIONAL_HOST: Rule<Option<String>> =
    Rule::new("an IP address, a host name, or empty", |text| optional(text, host));
/// The address of an origin.
pub const HOST: Rule<String> = Rule::new("an IP address or a host name", host);
/// A port, or more, of an origin.
pub const ENDPOINT: Rule<Endpoint> =
    Rule::new("PORT, PROTO://:PORT or PROTO://IP:PORT, with a port from 1 to 65535", |text| Endpoint::parse(text).ok());
/// A port, or more, of an origin that may serve the protocol or not.
pub const OPTIONAL_ENDPOINT: Rule<Option<Endpoint>> =
    Rule::new("empty, PORT, PROTO://:PORT or PROTO://IP:PORT, with a port from 1 to 65535", |text| {
        optional(text, |text| Endpoint::parse(text).ok())
    });
/// A port to connect to.
pub const PORT: Rule<u16> = Rule::new("a whole number from 1 to 65535", |text| {
    whole_number(text, 1, 65535).and_then(|port| u16::try_from(port).ok())
});
/// The number of a Redis database.
pub const DATABASE: Rule<u32> = Rule::new("a whole number from 0 to 1000000", |text| {
    whole_number(text, 0, 1_000_000).and_then(|number| u32::try_from(number).ok())
});
/// A name that is no secret, such as that of a user.
pub const USER: Rule<Option<String>> = Rule::new("at most 4096 printable ASCII characters, or empty", |text| {
    optional(text, |text| is_token(text).then(|| text.to_owned()))
});
/// The name of a Redis master.
pub const MASTER: Rule<String> = Rule::new("printable ASCII characters without spaces", |text| {
    let printable = !text.is_empty() && text.len() <= MAX_TOKEN && text.bytes().all(|b| b.is_ascii_graphic());
    printable.then(|| text.to_owned())
});
/// What Redis keys begin with.
pub const KEY_PREFIX: Rule<String> =
    Rule::new("at most 128 of A-Z a-z 0-9 - _ . : / and at most one hash tag {NAME}", |text| {
        is_key_prefix(text).then(|| text.to_owned())
    });
/// A Redis URL, which may hold a password.
pub const REDIS_URL: Rule<Option<Secret>> = Rule {
    parse: |text| optional(text, |text| redis_url(text).map(|_| Secret::new(text))),
    allowed: "redis://[[USER]:PASSWORD@]HOST[:PORT][/DB], or rediss:// for TLS, or empty",
    secret: true,
};
/// Servers that know each other.
pub const SERVERS: Rule<Vec<(String, u16)>> =
    Rule::new("HOST:PORT or [IPV6]:PORT, with commas between them, or empty", servers);
/// A file to read.
pub const FILE: Rule<Option<PathBuf>> = Rule::new("the path of a file, or empty", |text| (PATH.parse)(text));
/// A directory.
pub const PATH: Rule<Option<PathBuf>> = Rule::new("the path of a directory, or empty", |text| {
    optional(text, |text| (!text.chars().any(char::is_control)).then(|| PathBuf::from(text)))
});
/// The vhosts that are told apart.
pub const VHOSTS: Rule<Vhosts> = Rule::new("host names with commas between them, or empty for any", vhosts);
/// What is logged.
pub const LOG_FILTER: Rule<String> =
    Rule::new("off, error, warn, info, debug or trace, or directives such as info,srs_proxy=debug", log_filter);
/// How it is logged.
pub const LOG_FORMAT: Rule<LogFormat> =
    Rule::new("text or json", |text| choice(text, &[("text", LogFormat::Text), ("json", LogFormat::Json)]));

#[expect(clippy::option_option, reason = "the outer one says whether the text is allowed, the inner one is the value")]
fn optional<T>(text: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    if text.is_empty() { Some(None) } else { parse(text).map(Some) }
}

/// What a URL says of a server, or nothing if it is no URL of one.
pub(super) fn redis_url(url: &str) -> Option<ConnectionInfo> {
    let info = url.into_connection_info().ok()?;
    let usable = match info.addr() {
        ConnectionAddr::Tcp(..) => true,
        ConnectionAddr::TcpTls { insecure, .. } => !insecure,
        _ => false,
    };
    (usable && u32::try_from(info.redis_settings().db()).is_ok()).then_some(info)
}

fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Option<T> {
    choices.iter().find(|(name, _)| text.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
}

fn whole_number(text: &str, min: usize, max: usize) -> Option<usize> {
    let number = digits(text)?.parse().ok()?;
    (min..=max).contains(&number).then_some(number)
}

/// `str::parse` alone would take a sign.
fn digits(text: &str) -> Option<&str> {
    text.bytes().all(|b| b.is_ascii_digit()).then_some(text)
}

fn listen(text: &str) -> Option<Listen> {
    let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
    let port = digits(port)?.parse().ok()?;
    let host = match host.strip_prefix('[') {
        None if host.is_empty() => None,
        None if host.contains(':') => return None,
        None => Some(self::host(host)?),
        Some(v6) => Some(v6.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().ok()?.to_string()),
    };
    // An IPv6 wildcard takes IPv4 as well, as a port alone does.
    let host = host.filter(|host| host != "::");
    Some(Listen { host, port })
}

fn host(text: &str) -> Option<String> {
    let bare = text.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(ip) => Some(ip.to_string()),
        Err(_) => is_host_name(text).then(|| text.to_owned()),
    }
}

fn candidates(text: &str) -> Option<Vec<String>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let candidates: Vec<_> = text.split(',').map(|name| host(name.trim())).collect::<Option<_>>()?;
    let unspecified = |name: &String| name.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
    (candidates.len() <= MAX_CANDIDATES && !candidates.iter().any(unspecified)).then_some(candidates)
}

fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn seeds(text: &str) -> Option<Vec<Seed>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let seeds: Vec<Seed> = text.split(',').map(|seed| seed_address(seed.trim())).collect::<Option<_>>()?;
    (seeds.len() <= MAX_SEEDS).then_some(seeds)
}

fn seed_address(text: &str) -> Option<Seed> {
    let Listen { host, port } = listen(text)?;
    (port != 0).then_some(())?;
    Some(Seed { host: host?, port })
}

fn duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok().filter(|d| (MIN_DURATION..=MAX_DURATION).contains(d))
}

fn is_token(text: &str) -> bool {
    text.len() <= MAX_TOKEN && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
}

/// Without white space or glob characters, because keys are looked for by pattern.
fn is_key_prefix(text: &str) -> bool {
    let plain =
        |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':' | b'/'));
    let parts = match text.split_once('{') {
        None => plain(text),
        Some((before, rest)) => rest
            .split_once('}')
            .is_some_and(|(tag, after)| !tag.is_empty() && [before, tag, after].into_iter().all(plain)),
    };
    parts && text.len() <= MAX_KEY_PREFIX
}

fn servers(text: &str) -> Option<Vec<(String, u16)>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let server = |text: &str| {
        let Listen { host, port } = listen(text.trim())?;
        host.filter(|_| port > 0).map(|host| (host, port))
    };
    text.split(',').map(server).collect()
}

fn vhosts(text: &str) -> Option<Vhosts> {
    if text.is_empty() {
        return Some(Vhosts::any());
    }
    let names: Vec<&str> = text.split(',').map(str::trim).collect();
    names.iter().all(|name| is_host_name(name)).then(|| Vhosts::only(names))
}

/// A bare word that is no level would be taken for the name of a module that logs everything, so a
/// misspelt level has to be caught here.
fn log_filter(text: &str) -> Option<String> {
    if text.split(',').any(|part| !part.contains(['=', '[']) && !is_level(part.trim())) {
        return None;
    }
    EnvFilter::builder().with_regex(false).parse(text).ok()?;
    Some(text.to_owned())
}

fn is_level(text: &str) -> bool {
    !text.is_empty() && !text.bytes().any(|b| b.is_ascii_digit()) && text.parse::<LevelFilter>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refuses<T>(rule: &Rule<T>, texts: &[&str]) {
        for text in texts {
            assert!((rule.parse)(text).is_none(), "{text:?} was accepted as {}", rule.allowed);
        }
    }

    #[test]
    fn listen_values_are_read_in_every_form() {
        for (text, host, port) in [
            ("1935", None, 1935),
            (":1935", None, 1935),
            ("0", None, 0),
            ("127.0.0.1:1935", Some("127.0.0.1"), 1935),
            ("0.0.0.0:1935", Some("0.0.0.0"), 1935),
            ("localhost:1935", Some("localhost"), 1935),
            ("[::1]:1935", Some("::1"), 1935),
            ("[::]:1935", None, 1935),
            ("65535", None, 65535),
        ] {
            let expected = Listen { host: host.map(str::to_owned), port };
            assert_eq!((LISTEN.parse)(text), Some(expected), "{text}");
        }
        refuses(
            &LISTEN,
            &[
                "",
                ":",
                "65536",
                "-1",
                "+1935",
                "http",
                "::1",
                "::1:1935",
                "[::1]",
                "[::1",
                "[1.2.3.4]:1",
                "a b:1",
                "host:",
                "[]:1",
                "tcp://:1935",
            ],
        );
    }

    #[test]
    fn candidates_are_addresses_or_names_that_a_client_can_reach() {
        let read = |text| (CANDIDATES.parse)(text);
        assert_eq!(read(""), Some(vec![]));
        assert_eq!(read("10.0.0.1, [2001:db8::1],2001:db8::2,lb.example.com").unwrap().len(), 4);
        refuses(&CANDIDATES, &[",", "10.0.0.1,", "10.0.0.1:8000", "0.0.0.0", "::", "*", "a b", &["a"; 17].join(",")]);
    }

    #[test]
    fn durations_are_read_as_the_go_proxy_writes_them() {
        for (text, millis) in [
            ("20s", 20_000),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("1.5s", 1500),
            ("1h", 3_600_000),
            ("24h", 86_400_000),
            ("1ms", 1),
        ] {
            assert_eq!((DURATION.parse)(text), Some(Duration::from_millis(millis)), "{text}");
        }
        refuses(&DURATION, &["", "20", "0", "0s", "-1s", "24h1s", "1us", "soon", "1e3s", "99999999999999999999s"]);
    }

    #[test]
    fn numbers_are_held_to_their_bounds() {
        assert_eq!((CONNECTIONS.parse)("1"), Some(1));
        assert_eq!((CONNECTIONS.parse)("1000000"), Some(1_000_000));
        refuses(&CONNECTIONS, &["", "0", "1000001", "-1", "+1", "1.0", "many", "18446744073709551617"]);
        assert_eq!((THREADS.parse)("0"), Some(None));
        assert_eq!((THREADS.parse)("2"), Some(NonZeroUsize::new(2)));
        refuses(&THREADS, &["1025"]);
    }

    #[test]
    fn a_level_that_is_misspelt_is_not_taken_for_the_name_of_a_module() {
        for text in
            ["info", "WARN", "off", "info,srs_proxy=debug", "srs_proxy::relay=trace", "warn,[rtmp{stream=a}]=debug"]
        {
            assert_eq!((LOG_FILTER.parse)(text).as_deref(), Some(text));
        }
        refuses(&LOG_FILTER, &["", "loud", "5", "info,loud", "info,", "srs_proxy=loud", "[rtmp"]);
    }

    #[test]
    fn lists_of_vhosts_are_read_and_an_odd_name_is_refused() {
        assert_eq!((VHOSTS.parse)(""), Some(Vhosts::any()));
        assert_eq!((VHOSTS.parse)("a.com, B.com"), Some(Vhosts::only(["a.com", "b.com"])));
        refuses(&VHOSTS, &["a.com,", ",", "a b", "a.com;b.com", "rtmp://a.com"]);
    }

    #[test]
    fn a_key_prefix_can_be_looked_for_by_pattern_and_has_one_hash_tag_at_the_most() {
        for text in ["", "live:", "a/b.c-d_e:", "{srs}:", "a{b}c"] {
            assert_eq!((KEY_PREFIX.parse)(text).as_deref(), Some(text));
        }
        refuses(&KEY_PREFIX, &["a b", "a*", "{", "}", "{}", "{a}{b}", "a}b{", "{a{b}}", &"x".repeat(129)]);
    }

    #[test]
    fn lists_of_servers_need_a_port_for_each() {
        let servers = [("10.0.0.1".to_owned(), 6379), ("::1".to_owned(), 6380), ("redis-2".to_owned(), 1)];
        assert_eq!((SERVERS.parse)("10.0.0.1:6379, [::1]:6380,redis-2:1"), Some(servers.to_vec()));
        assert_eq!((SERVERS.parse)(""), Some(Vec::new()));
        refuses(&SERVERS, &["a", "a:0", ":6379", "6379", "a:1,", "a:65536", "redis://a:1"]);
    }

    #[test]
    fn a_token_is_anything_that_a_header_can_carry() {
        assert_eq!((TOKEN.parse)("p$1 =#x").flatten().map(|t| t.expose().to_owned()).as_deref(), Some("p$1 =#x"));
        assert_eq!((TOKEN.parse)(""), Some(None));
        refuses(&TOKEN, &["caf\u{e9}", "a\tb", "a\nb", &"x".repeat(MAX_TOKEN + 1)]);
    }

    #[test]
    fn seeds_are_read_in_every_form_and_need_a_host_and_a_port() {
        let seed = |host: &str, port| Seed { host: host.to_owned(), port };
        assert_eq!((SEEDS.parse)(""), Some(Vec::new()));
        assert_eq!(
            (SEEDS.parse)("mesh.svc:12026, 10.0.0.1:1,[2001:db8::1]:2"),
            Some(vec![seed("mesh.svc", 12026), seed("10.0.0.1", 1), seed("2001:db8::1", 2)])
        );
        let many = ["a:1"; MAX_SEEDS + 1].join(",");
        refuses(&SEEDS, &["12026", ":12026", "mesh", "mesh:0", "mesh:1,", ",", "2001:db8::1:2", "a b:1", &many]);
    }

    #[test]
    fn a_short_key_is_no_key() {
        assert_eq!((MESH_KEY.parse)("0123456789abcdef"), Some(Some(Secret::new("0123456789abcdef"))));
        assert_eq!((MESH_KEY.parse)(""), Some(None));
        refuses(&MESH_KEY, &["0123456789abcde", "0123456789abcde\u{e9}", &"x".repeat(MAX_TOKEN + 1)]);
    }

    #[test]
    fn names_of_nodes_can_stand_in_logs_and_addresses() {
        assert_eq!((OPTIONAL_NAME.parse)("srs-proxy-0.mesh_1"), Some(Some("srs-proxy-0.mesh_1".to_owned())));
        assert_eq!((OPTIONAL_NAME.parse)(""), Some(None));
        refuses(&NAME, &["", "a b", "a/b", "caf\u{e9}", &"x".repeat(MAX_NAME + 1)]);
    }

    #[test]
    fn choices_do_not_depend_on_case_and_name_no_others() {
        assert_eq!((SWITCH.parse)("ON"), Some(true));
        assert_eq!((BALANCER.parse)("memory"), Some(BalancerType::Memory));
        refuses(&SWITCH, &["", "yes", "1", "true"]);
        assert_eq!((BALANCER.parse)("Mesh"), Some(BalancerType::Mesh));
        assert_eq!((BALANCER.parse)("Redis"), Some(BalancerType::Redis));
        refuses(&BALANCER, &["", "etcd"]);
        refuses(&AUTH_TYPE, &["basic"]);
        refuses(&HOST, &["", "a b", "10.0.0.1:1935", "rtmp://a"]);
    }
}
