//! Which drills, with what.

use std::path::PathBuf;

use clap::{
    Arg, Command,
    builder::{EnumValueParser, PossibleValue},
    value_parser,
};

/// One drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drill {
    /// Publish through one node, play through another at once.
    FirstTry,
    /// Two nodes are asked for one fresh name at the same moment.
    Race,
    /// How long the answer to "where is this stream?" takes.
    Place,
    /// Nodes come, go and die while placements are held.
    Hold,
    /// A node dies: how long until others answer for its streams.
    DeadHome,
    /// A node joins others that hold many placements.
    Ready,
    /// What a mesh costs in which nothing happens.
    Idle,
    /// The network is cut in two and made whole again.
    Partition,
    /// The network is slow and loses packets in one direction.
    Loss,
    /// Nodes with names in DNS are restarted one after the other, some at new addresses.
    StatefulSet,
    /// Datagrams from made-up addresses arrive all the time.
    Flood,
    /// Clients of WebRTC and SRT go without a word.
    Abandoned,
    /// Datagrams arrive that are not what they seem.
    Malformed,
}

impl Drill {
    /// Its name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FirstTry => "first-try",
            Self::Race => "race",
            Self::Place => "place",
            Self::Hold => "hold",
            Self::DeadHome => "dead-home",
            Self::Ready => "ready",
            Self::Idle => "idle",
            Self::Partition => "partition",
            Self::Loss => "loss",
            Self::StatefulSet => "statefulset",
            Self::Flood => "flood",
            Self::Abandoned => "abandoned",
            Self::Malformed => "malformed",
        }
    }

    /// Whether it runs in network namespaces.
    pub const fn needs_network(self) -> bool {
        matches!(self, Self::Idle | Self::Partition | Self::StatefulSet)
    }
}

impl clap::ValueEnum for Drill {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::FirstTry,
            Self::Race,
            Self::Place,
            Self::Hold,
            Self::DeadHome,
            Self::Ready,
            Self::Idle,
            Self::Partition,
            Self::Loss,
            Self::StatefulSet,
            Self::Flood,
            Self::Abandoned,
            Self::Malformed,
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(self.name().into())
    }
}

/// The options of the drills.
#[derive(Debug, Clone)]
pub struct Options {
    /// The drills, in this order.
    pub drills: Vec<Drill>,
    /// The program that is drilled.
    pub proxy: PathBuf,
    /// Tries of "first-try", "race" and "place".
    pub tries: usize,
    /// Placements of "hold", and of each node in "ready" and "idle".
    pub placements: usize,
    /// Sessions of "abandoned".
    pub sessions: usize,
    /// How often as many come that must leave nothing.
    pub times: usize,
}

impl Options {
    /// Reads the command line; a mistake in it ends the program.
    pub fn parse(args: &[String]) -> Self {
        let mut matches = command().get_matches_from(args);
        // Every argument has a default, so `unwrap_or` never falls back.
        let mut number = |name: &str| matches.remove_one::<u64>(name).unwrap_or(1) as usize;
        let [tries, placements, sessions, times] = ["tries", "placements", "sessions", "times"].map(&mut number);
        Self {
            drills: matches.remove_many("drill").into_iter().flatten().collect(),
            proxy: matches.remove_one("proxy-bin").unwrap_or_default(),
            tries,
            placements,
            sessions,
            times,
        }
    }
}

fn command() -> Command {
    let number = |name: &'static str, default: &'static str, help: &'static str| {
        Arg::new(name).long(name).default_value(default).value_parser(value_parser!(u64).range(1..=100_000)).help(help)
    };
    Command::new("drill")
        .about("Puts fleets of nodes through what happens to them in production, and measures how they take it")
        .arg(
            Arg::new("drill")
                .long("drill")
                .num_args(1..)
                .value_delimiter(',')
                .value_parser(EnumValueParser::<Drill>::new())
                .default_value("first-try,race,place,hold,dead-home,ready,idle,partition,loss,statefulset,flood,abandoned,malformed")
                .help("Drills"),
        )
        .arg(srs_proxy_tools::proxy_bin())
        .arg(number("tries", "1000", "Tries of first-try, race and place"))
        .arg(number("placements", "10000", "Placements of hold; of each node in ready and idle"))
        .arg(number("sessions", "1000", "Sessions of abandoned, of WebRTC and of SRT each"))
        .arg(number("times", "3", "How often so many sessions of abandoned come once its records are given up as fast as they are made"))
}
