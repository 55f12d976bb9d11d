//! What is measured, and how often.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{
    Arg, Command,
    builder::{EnumValueParser, PossibleValue},
    value_parser,
};

/// One kind of load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scenario {
    /// Many players of one stream.
    Players,
    /// Many publishers, each of its own stream.
    Publishers,
    /// Very many players of a stream that hardly flows: what a connection costs in memory.
    Idle,
    /// One player at a time: how long its first media takes.
    Latency,
    /// Many players of one stream by HTTP-FLV.
    Flv,
    /// HLS segments and playlists by HTTP, as fast as they come.
    Segments,
    /// Many players of one stream by WebRTC.
    Webrtc,
    /// Many players of one stream by SRT.
    Srt,
}

impl clap::ValueEnum for Scenario {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::Players,
            Self::Publishers,
            Self::Idle,
            Self::Latency,
            Self::Flv,
            Self::Segments,
            Self::Webrtc,
            Self::Srt,
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(
            match self {
                Self::Players => "players",
                Self::Publishers => "publishers",
                Self::Idle => "idle",
                Self::Latency => "latency",
                Self::Flv => "flv",
                Self::Segments => "segments",
                Self::Webrtc => "webrtc",
                Self::Srt => "srt",
            }
            .into(),
        )
    }
}

impl Scenario {
    /// Whether this is about HTTP.
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Flv | Self::Segments)
    }

    /// Whether this is about datagrams.
    pub const fn is_udp(self) -> bool {
        matches!(self, Self::Webrtc | Self::Srt)
    }

    /// Whether `kind` is measured in this.
    pub const fn applies_to(self, kind: Kind) -> bool {
        match kind {
            Kind::Proxy => true,
            Kind::Haproxy | Kind::Splice => !self.is_http() && !self.is_udp(),
            Kind::HaproxyHttp => self.is_http(),
            Kind::Nginx => self.is_udp(),
            Kind::Bare => !matches!(self, Self::Segments) && !self.is_udp(),
            Kind::Direct => matches!(self, Self::Segments) || self.is_udp(),
        }
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// This crate.
    Proxy,
    /// HAProxy in TCP mode.
    Haproxy,
    /// The same, with bytes spliced in the kernel.
    Splice,
    /// HAProxy in HTTP mode.
    HaproxyHttp,
    /// nginx's stream module.
    Nginx,
    /// A relay of bytes.
    Bare,
    /// Nothing: the origin itself.
    Direct,
}

impl Kind {
    /// What it is called in tables.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Proxy => "srs-proxy",
            Self::Haproxy => "HAProxy, TCP mode",
            Self::Splice => "HAProxy with splice",
            Self::HaproxyHttp => "HAProxy, HTTP mode",
            Self::Nginx => "nginx, stream module",
            Self::Bare => "bare byte relay",
            Self::Direct => "the origin itself",
        }
    }

    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Proxy => "proxy",
            Self::Haproxy => "haproxy",
            Self::Splice => "splice",
            Self::HaproxyHttp => "haproxy-http",
            Self::Nginx => "nginx",
            Self::Bare => "bare",
            Self::Direct => "direct",
        }
    }
}

impl clap::ValueEnum for Kind {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Proxy, Self::Haproxy, Self::Splice, Self::HaproxyHttp, Self::Nginx, Self::Bare, Self::Direct]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(self.name().into())
    }
}

/// The options of the lab.
#[derive(Debug)]
pub struct Options {
    /// Players of the scenarios "players" and "flv".
    pub players: usize,
    /// Publishers of the scenario of that name.
    pub publishers: usize,
    /// Players of the scenario "idle".
    pub idle: usize,
    /// Players of the scenario "webrtc".
    pub webrtc_players: usize,
    /// Players of the scenario "srt".
    pub srt_players: usize,
    /// Connections of the scenario "latency", through a relay and direct each.
    pub connects: usize,
    /// How long one measurement lasts.
    pub window: Duration,
    /// How often everything is measured.
    pub rounds: usize,
    /// The rate of a stream, kbit/s.
    pub kbps: u32,
    /// The rate of a stream of WebRTC or SRT, kbit/s.
    pub udp_kbps: u64,
    /// The origin, if it is not to be started here.
    pub origin: Option<SocketAddr>,
    /// Where that origin serves HTTP-FLV, if that is not to be started here.
    pub http_origin: Option<SocketAddr>,
    /// The program that is measured.
    pub proxy: PathBuf,
    /// The scenarios.
    pub scenarios: Vec<Scenario>,
    /// What is measured in each.
    pub relays: Vec<Kind>,
}

impl Options {
    /// The most connections at once through a relay, with room for those that are just closing.
    pub fn connections(&self) -> usize {
        let datagrams = self.webrtc_players.max(self.srt_players);
        self.players.max(self.publishers).max(self.idle).max(datagrams) + 100
    }

    /// Reads the command line; a mistake in it ends the program.
    pub fn parse(args: &[String]) -> Self {
        let mut matches = command().get_matches_from(args);
        // Every argument has a default, so `unwrap_or` never falls back.
        let mut number = |name: &str, fallback| matches.remove_one::<u64>(name).unwrap_or(fallback);
        let [players, publishers, idle, connects, rounds] =
            ["players", "publishers", "idle", "connects", "rounds"].map(|name| number(name, 1) as usize);
        let window = Duration::from_secs(number("seconds", 15));
        let kbps = number("kbps", 2600) as u32;
        let udp_kbps = number("udp-kbps", 2500);
        let [webrtc_players, srt_players] = ["webrtc-players", "srt-players"].map(|name| number(name, 1) as usize);
        Self {
            players,
            publishers,
            idle,
            webrtc_players,
            srt_players,
            connects,
            window,
            rounds,
            kbps,
            udp_kbps,
            origin: matches.remove_one("origin"),
            http_origin: matches.remove_one("http-origin"),
            proxy: matches.remove_one("proxy-bin").unwrap_or_default(),
            scenarios: matches.remove_many("only").into_iter().flatten().collect(),
            relays: matches.remove_many("relays").into_iter().flatten().collect(),
        }
    }
}

fn command() -> Command {
    let number =
        |name: &'static str, default: &'static str, range: std::ops::RangeInclusive<u64>, help: &'static str| {
            Arg::new(name).long(name).default_value(default).value_parser(value_parser!(u64).range(range)).help(help)
        };
    Command::new("lab")
        .about("Measures relays of RTMP, HTTP, WebRTC and SRT streams side by side on one origin")
        .arg(number("players", "100", 1..=3000, "Players of one stream"))
        .arg(number("publishers", "20", 1..=1000, "Publishers, each of its own stream"))
        .arg(number("idle", "1000", 1..=3000, "Players whose memory is measured"))
        .arg(number("webrtc-players", "100", 1..=1000, "Players of one stream by WebRTC"))
        .arg(number("srt-players", "50", 1..=1000, "Players of one stream by SRT"))
        .arg(number("connects", "200", 10..=10_000, "Connections whose latency is measured"))
        .arg(number("seconds", "15", 1..=300, "Length of one measurement"))
        .arg(number("rounds", "3", 1..=100, "How often everything is measured"))
        .arg(number("kbps", "2600", 200..=50_000, "Rate of a stream in kbit/s"))
        .arg(number("udp-kbps", "2500", 200..=50_000, "Rate of a stream of WebRTC or SRT in kbit/s"))
        .arg(
            Arg::new("origin")
                .long("origin")
                .value_name("ADDRESS:PORT")
                .value_parser(value_parser!(SocketAddr))
                .help("An origin that runs already [default: an nginx-rtmp is started]"),
        )
        .arg(
            Arg::new("http-origin")
                .long("http-origin")
                .value_name("ADDRESS:PORT")
                .value_parser(value_parser!(SocketAddr))
                .requires("origin")
                .help("Where the origin serves HTTP-FLV [default: one that sends as SRS does is started]"),
        )
        .arg(srs_proxy_tools::proxy_bin())
        .arg(
            Arg::new("only")
                .long("only")
                .value_delimiter(',')
                .value_parser(EnumValueParser::<Scenario>::new())
                .default_value("players,publishers,idle,latency,flv,segments,webrtc,srt")
                .help("Scenarios"),
        )
        .arg(
            Arg::new("relays")
                .long("relays")
                .value_delimiter(',')
                .value_parser(EnumValueParser::<Kind>::new())
                .default_value("proxy,haproxy,splice,haproxy-http,nginx,bare,direct")
                .help("What is measured, where it applies"),
        )
}
