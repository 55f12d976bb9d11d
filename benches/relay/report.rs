//! The figures as Markdown.

use std::fmt::Write;

use crate::{
    latency::Percentiles,
    machine::{machine, versions},
    options::{Options, Scenario},
    relays::Kind,
    run::{Finding, Findings},
    stats::Summary,
};

const MB: f64 = 1e6;
const NOT_MEASURED: &str = "–";

/// One finding for the person who waits.
pub fn brief(finding: &Finding) -> String {
    match finding {
        Finding::Load(measured) => format!(
            "{:.3} CPU s, {:.1} MB relayed, {:.3} CPU s/GB, {:.1} MB resident, {:.1} MB at most",
            measured.cpu.as_secs_f64(),
            measured.bytes as f64 / MB,
            measured.seconds_per_gb(),
            measured.memory.resident as f64 / MB,
            measured.memory.peak as f64 / MB,
        ),
        Finding::Latency(found) => format!(
            "p50 {:.2} ms, p99 {:.2} ms added to {:.2} ms and {:.2} ms",
            found.added.p50, found.added.p99, found.direct.p50, found.direct.p99,
        ),
    }
}

/// Everything.
pub fn markdown(options: &Options, findings: &Findings) -> String {
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = write_all(&mut out, options, findings);
    out
}

fn write_all(out: &mut String, options: &Options, findings: &Findings) -> std::fmt::Result {
    writeln!(out, "Machine: {}. Versions: {}.", machine(), versions(options))?;
    writeln!(
        out,
        "{} players of one {} kbit/s stream, {} publishers of such streams, {} s each; {} idle players; {} connects; \
         median (min–max) of {} rounds, one relay after the other in each. CPU time from /proc/PID/task/*/schedstat; \
         1 GB is 10⁹ bytes.\n",
        options.players,
        options.kbps,
        options.publishers,
        options.window.as_secs(),
        options.idle,
        options.connects,
        options.rounds,
    )?;
    writeln!(
        out,
        "| | players, CPU s/GB | publishers, CPU s/GB | {} players, MB | at most, MB | added to first media p50, ms | p99, ms |",
        options.idle
    )?;
    writeln!(out, "|---|---|---|---|---|---|---|")?;
    for kind in &options.relays {
        let cell = |measure: Measure, digits: usize| {
            let summary = Summary::of(values(findings, measure, *kind).into_iter().map(|(_, value)| value));
            summary.map_or_else(|| NOT_MEASURED.to_owned(), |summary| format!("{summary:.digits$}"))
        };
        writeln!(
            out,
            "| {} | {} | {} | {} | {} | {} | {} |",
            kind.title(),
            cell(Measure::Cpu(Scenario::Players), 3),
            cell(Measure::Cpu(Scenario::Publishers), 3),
            cell(Measure::Resident, 1),
            cell(Measure::Peak, 1),
            cell(Measure::P50, 2),
            cell(Measure::P99, 2),
        )?;
    }
    let direct = |pick: fn(Percentiles) -> f64| {
        Summary::of(findings.of_all(Scenario::Latency).filter_map(|finding| match finding {
            Finding::Latency(found) => Some(pick(found.direct)),
            Finding::Load(_) => None,
        }))
    };
    if let (Some(p50), Some(p99)) = (direct(|p| p.p50), direct(|p| p.p99)) {
        writeln!(out, "\nFirst media from the origin itself: p50 {p50:.2} ms, p99 {p99:.2} ms.")?;
    }
    writeln!(out, "\n| srs-proxy | target | measured | met |\n|---|---|---|---|")?;
    for target in targets(options) {
        let measured = target.measured(findings);
        let met = match (measured, target.limit) {
            (Some(measured), Some(limit)) => {
                if measured.median <= limit {
                    "yes"
                } else {
                    "no"
                }
            }
            _ => NOT_MEASURED,
        };
        let limit = target.limit.map_or_else(|| NOT_MEASURED.to_owned(), |limit| format!("≤ {limit}"));
        let measured = measured.map_or_else(|| NOT_MEASURED.to_owned(), |measured| format!("{measured:.2}"));
        writeln!(out, "| {} | {limit} | {measured} | {met} |", target.what)?;
    }
    Ok(())
}

/// A number of a finding.
#[derive(Debug, Clone, Copy)]
enum Measure {
    /// CPU seconds per GB.
    Cpu(Scenario),
    /// Memory of the idle players, MB.
    Resident,
    Peak,
    /// Added latency, ms.
    P50,
    P99,
}

fn values(findings: &Findings, measure: Measure, kind: Kind) -> Vec<(usize, f64)> {
    let scenario = match measure {
        Measure::Cpu(scenario) => scenario,
        Measure::Resident | Measure::Peak => Scenario::Idle,
        Measure::P50 | Measure::P99 => Scenario::Latency,
    };
    let number = |finding| match (measure, finding) {
        (Measure::Cpu(_), Finding::Load(measured)) => Some(measured.seconds_per_gb()),
        (Measure::Resident, Finding::Load(measured)) => Some(measured.memory.resident as f64 / MB),
        (Measure::Peak, Finding::Load(measured)) => Some(measured.memory.peak as f64 / MB),
        (Measure::P50, Finding::Latency(found)) => Some(found.added.p50),
        (Measure::P99, Finding::Latency(found)) => Some(found.added.p99),
        _ => None,
    };
    findings.of(scenario, kind).filter_map(|(round, finding)| Some((round, number(finding)?))).collect()
}

/// What the proxy is to reach.
struct Target {
    what: String,
    measure: Measure,
    /// The measure of this relay in the same round divides the proxy's.
    relative_to: Option<Kind>,
    limit: Option<f64>,
}

impl Target {
    /// The proxy's figure; a ratio is taken within each round, so that what slows the machine down
    /// for a while slows both.
    fn measured(&self, findings: &Findings) -> Option<Summary> {
        let ours = values(findings, self.measure, Kind::Proxy);
        let Some(kind) = self.relative_to else { return Summary::of(ours.into_iter().map(|(_, value)| value)) };
        let theirs = values(findings, self.measure, kind);
        Summary::of(ours.into_iter().filter_map(|(round, value)| {
            let (_, other) = theirs.iter().find(|(r, _)| *r == round)?;
            Some(value / other)
        }))
    }
}

fn targets(options: &Options) -> Vec<Target> {
    let ratio = |name: &str, scenario, kind: Kind, limit| Target {
        what: format!("{name}, CPU ÷ {}", kind.title()),
        measure: Measure::Cpu(scenario),
        relative_to: Some(kind),
        limit,
    };
    let absolute = |what: String, measure, limit| Target { what, measure, relative_to: None, limit: Some(limit) };
    vec![
        ratio("players", Scenario::Players, Kind::Haproxy, Some(0.7)),
        ratio("players", Scenario::Players, Kind::Splice, None),
        ratio("players", Scenario::Players, Kind::Bare, Some(1.15)),
        ratio("publishers", Scenario::Publishers, Kind::Haproxy, Some(0.9)),
        ratio("publishers", Scenario::Publishers, Kind::Splice, None),
        ratio("publishers", Scenario::Publishers, Kind::Bare, Some(1.15)),
        absolute(format!("{} players, MB", options.idle), Measure::Resident, 25.0),
        absolute("added to first media p50, ms".to_owned(), Measure::P50, 1.0),
        absolute("added to first media p99, ms".to_owned(), Measure::P99, 5.0),
    ]
}
