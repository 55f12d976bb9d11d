//! What was measured, by scenario, relay and round.

use crate::{
    datagrams::Datagrams,
    latency::Latency,
    load::Measured,
    options::{Kind, Scenario},
    segments::Segments,
};

/// What one scenario found for one relay in one round.
#[derive(Debug, Clone, Copy)]
pub enum Finding {
    /// Of players, publishers and idle players, and of players by HTTP-FLV.
    Load(Measured),
    /// Of latency.
    Latency(Latency),
    /// Of segments.
    Segments(Segments),
    /// Of players by WebRTC and SRT.
    Datagrams(Datagrams),
}

/// All findings.
#[derive(Debug, Default)]
pub struct Findings(Vec<(Scenario, Kind, usize, Finding)>);

impl Findings {
    /// Adds what a round found.
    pub fn push(&mut self, scenario: Scenario, kind: Kind, round: usize, finding: Finding) {
        self.0.push((scenario, kind, round, finding));
    }

    /// What was found of a scenario, whatever was measured.
    pub fn of_all(&self, scenario: Scenario) -> impl Iterator<Item = Finding> {
        self.0.iter().filter(move |(s, ..)| *s == scenario).map(|(.., found)| *found)
    }

    /// What was found, by round.
    pub fn of(&self, scenario: Scenario, kind: Kind) -> impl Iterator<Item = (usize, Finding)> {
        self.0.iter().filter(move |(s, k, ..)| *s == scenario && *k == kind).map(|(.., round, found)| (*round, *found))
    }
}
