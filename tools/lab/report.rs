//! The figures as Markdown.

use std::fmt::{self, Write};

use crate::{
    findings::{Finding, Findings},
    latency::Percentiles,
    machine::{machine, versions},
    options::{Kind, Options, Scenario},
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
        Finding::Segments(found) => format!(
            "{:.0} requests/s, {} errors, p99 {:.1} ms, {:.3} CPU s, {:.1} MB, {:.3} CPU s/GB",
            found.rate(),
            found.errors,
            found.p99.as_secs_f64() * 1e3,
            found.cpu.unwrap_or_default().as_secs_f64(),
            found.bytes as f64 / MB,
            found.seconds_per_gb().unwrap_or_default(),
        ),
        Finding::Datagrams(found) => format!(
            "{} datagrams, {:.0}/s, {} lost, {:.2} µs of CPU each, from the origin p50 {:.2} ms, p99 {:.2} ms",
            found.relayed,
            found.rate(),
            found.lost,
            found.micros_per_packet().unwrap_or_default(),
            found.p50,
            found.p99,
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

fn write_all(out: &mut String, options: &Options, findings: &Findings) -> fmt::Result {
    writeln!(out, "Machine: {}. Versions: {}.", machine(), versions(options))?;
    writeln!(
        out,
        "{} players of one {} kbit/s stream, {} publishers of such streams, {} s each; {} idle players; {} connects; \
         {} WebRTC players and {} SRT players of one {} kbit/s stream; median (min–max) of {} rounds, one relay after \
         the other in each. CPU time from /proc/PID/task/*/schedstat; 1 GB is 10⁹ bytes.\n",
        options.players,
        options.kbps,
        options.publishers,
        options.window.as_secs(),
        options.idle,
        options.connects,
        options.webrtc_players,
        options.srt_players,
        options.udp_kbps,
        options.rounds,
    )?;
    table(out, options, findings, &rtmp_columns(options))?;
    table(out, options, findings, &http_columns(options))?;
    table(out, options, findings, &udp_columns(&format!("{} WebRTC", options.webrtc_players), Scenario::Webrtc))?;
    table(out, options, findings, &udp_columns(&format!("{} SRT", options.srt_players), Scenario::Srt))?;
    let direct = |pick: fn(Percentiles) -> f64| {
        Summary::of(findings.of_all(Scenario::Latency).filter_map(|finding| match finding {
            Finding::Latency(found) => Some(pick(found.direct)),
            _ => None,
        }))
    };
    if let (Some(p50), Some(p99)) = (direct(|p| p.p50), direct(|p| p.p99)) {
        writeln!(out, "First media from the origin itself: p50 {p50:.2} ms, p99 {p99:.2} ms.\n")?;
    }
    writeln!(out, "| srs-proxy | target | measured | met |\n|---|---|---|---|")?;
    for target in targets(options).iter().filter(|target| options.scenarios.contains(&target.measure.scenario())) {
        let measured = target.measured(findings);
        let met = match (measured, target.limit) {
            (Some(measured), Some(limit)) if limit.holds(measured.median) => "yes",
            (Some(_), Some(_)) => "no",
            _ => NOT_MEASURED,
        };
        let limit = target.limit.map_or_else(|| NOT_MEASURED.to_owned(), |limit| limit.to_string());
        let measured = measured.map_or_else(|| NOT_MEASURED.to_owned(), |measured| format!("{measured:.2}"));
        writeln!(out, "| {} | {limit} | {measured} | {met} |", target.what)?;
    }
    Ok(())
}

/// A column: its heading, what is in it, and with how many digits.
type Column = (String, Measure, usize);

fn rtmp_columns(options: &Options) -> Vec<Column> {
    vec![
        ("players, CPU s/GB".into(), Measure::Cpu(Scenario::Players), 3),
        ("publishers, CPU s/GB".into(), Measure::Cpu(Scenario::Publishers), 3),
        (format!("{} players, MB", options.idle), Measure::Resident, 1),
        ("at most, MB".into(), Measure::Peak, 1),
        ("added to first media p50, ms".into(), Measure::P50, 2),
        ("p99, ms".into(), Measure::P99, 2),
    ]
}

fn http_columns(options: &Options) -> Vec<Column> {
    vec![
        (format!("{} FLV players, CPU s/GB", options.players), Measure::Cpu(Scenario::Flv), 3),
        ("segments on one core, requests/s".into(), Measure::Rate, 0),
        ("errors".into(), Measure::Errors, 0),
        ("p99, ms".into(), Measure::RequestP99, 1),
        ("CPU s/GB".into(), Measure::Cpu(Scenario::Segments), 3),
        ("CPU s/1,000 requests".into(), Measure::CpuOfRequests, 4),
    ]
}

fn udp_columns(players: &str, scenario: Scenario) -> Vec<Column> {
    vec![
        (format!("{players} players, CPU µs/datagram"), Measure::Datagram(scenario), 2),
        ("datagrams/s".into(), Measure::Datagrams(scenario), 0),
        ("lost".into(), Measure::Lost(scenario), 0),
        ("from the origin p50, ms".into(), Measure::DelayP50(scenario), 2),
        ("p99, ms".into(), Measure::DelayP99(scenario), 2),
    ]
}

/// A line for each relay of which anything is known; nothing if there is none.
fn table(out: &mut String, options: &Options, findings: &Findings, columns: &[Column]) -> fmt::Result {
    let mut lines = Vec::new();
    for kind in &options.relays {
        let cells: Vec<_> = columns
            .iter()
            .map(|(_, measure, digits)| {
                let summary = Summary::of(values(findings, *measure, *kind).into_iter().map(|(_, value)| value));
                summary.map(|summary| format!("{summary:.digits$}"))
            })
            .collect();
        if cells.iter().any(Option::is_some) {
            let cells: Vec<_> = cells.into_iter().map(|cell| cell.unwrap_or_else(|| NOT_MEASURED.to_owned())).collect();
            lines.push(format!("| {} | {} |", kind.title(), cells.join(" | ")));
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    let headings: Vec<_> = columns.iter().map(|(heading, ..)| heading.as_str()).collect();
    writeln!(out, "| | {} |\n|{}", headings.join(" | "), "---|".repeat(columns.len() + 1))?;
    writeln!(out, "{}\n", lines.join("\n"))
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
    /// Of segments: requests a second, errors, ms, CPU seconds per 1,000 requests.
    Rate,
    Errors,
    RequestP99,
    CpuOfRequests,
    /// Of datagrams: CPU microseconds of each, how many a second, how many of the stream were lost, ms.
    Datagram(Scenario),
    Datagrams(Scenario),
    Lost(Scenario),
    DelayP50(Scenario),
    DelayP99(Scenario),
}

impl Measure {
    const fn scenario(self) -> Scenario {
        match self {
            Self::Cpu(scenario)
            | Self::Datagram(scenario)
            | Self::Datagrams(scenario)
            | Self::Lost(scenario)
            | Self::DelayP50(scenario)
            | Self::DelayP99(scenario) => scenario,
            Self::Resident | Self::Peak => Scenario::Idle,
            Self::P50 | Self::P99 => Scenario::Latency,
            Self::Rate | Self::Errors | Self::RequestP99 | Self::CpuOfRequests => Scenario::Segments,
        }
    }
}

fn values(findings: &Findings, measure: Measure, kind: Kind) -> Vec<(usize, f64)> {
    let number = |finding| match (measure, finding) {
        (Measure::Cpu(_), Finding::Load(measured)) => Some(measured.seconds_per_gb()),
        (Measure::Resident, Finding::Load(measured)) => Some(measured.memory.resident as f64 / MB),
        (Measure::Peak, Finding::Load(measured)) => Some(measured.memory.peak as f64 / MB),
        (Measure::P50, Finding::Latency(found)) => Some(found.added.p50),
        (Measure::P99, Finding::Latency(found)) => Some(found.added.p99),
        (Measure::Cpu(_), Finding::Segments(found)) => found.seconds_per_gb(),
        (Measure::CpuOfRequests, Finding::Segments(found)) => found.seconds_per_thousand(),
        (Measure::Rate, Finding::Segments(found)) => Some(found.rate()),
        (Measure::Errors, Finding::Segments(found)) => Some(found.errors as f64),
        (Measure::RequestP99, Finding::Segments(found)) => Some(found.p99.as_secs_f64() * 1e3),
        (Measure::Datagram(_), Finding::Datagrams(found)) => found.micros_per_packet(),
        (Measure::Datagrams(_), Finding::Datagrams(found)) => Some(found.rate()),
        (Measure::Lost(_), Finding::Datagrams(found)) => Some(found.lost as f64),
        (Measure::DelayP50(_), Finding::Datagrams(found)) => Some(found.p50),
        (Measure::DelayP99(_), Finding::Datagrams(found)) => Some(found.p99),
        _ => None,
    };
    findings.of(measure.scenario(), kind).filter_map(|(round, finding)| Some((round, number(finding)?))).collect()
}

/// What the proxy is to reach.
struct Target {
    what: String,
    measure: Measure,
    /// The measure of this relay in the same round divides the proxy's.
    relative_to: Option<Kind>,
    limit: Option<Limit>,
}

/// What a figure is to keep.
#[derive(Debug, Clone, Copy)]
enum Limit {
    AtMost(f64),
    AtLeast(f64),
}

impl Limit {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(limit) => write!(f, "≤ {limit}"),
            Self::AtLeast(limit) => write!(f, "≥ {limit}"),
        }
    }
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
    let ratio = |name: &str, scenario, kind: Kind, limit: Option<f64>| Target {
        what: format!("{name}, CPU ÷ {}", kind.title()),
        measure: Measure::Cpu(scenario),
        relative_to: Some(kind),
        limit: limit.map(Limit::AtMost),
    };
    let absolute =
        |what: &str, measure, limit| Target { what: what.to_owned(), measure, relative_to: None, limit: Some(limit) };
    let datagram = |name: &str, scenario| Target {
        what: format!("{name} players, CPU of a datagram ÷ {}", Kind::Nginx.title()),
        measure: Measure::Datagram(scenario),
        relative_to: Some(Kind::Nginx),
        limit: Some(Limit::AtMost(1.0)),
    };
    let lost = |name: &str, scenario| {
        absolute(&format!("{name} players, datagrams lost"), Measure::Lost(scenario), Limit::AtMost(0.0))
    };
    vec![
        ratio("players", Scenario::Players, Kind::Haproxy, Some(0.7)),
        ratio("players", Scenario::Players, Kind::Splice, None),
        ratio("players", Scenario::Players, Kind::Bare, Some(1.15)),
        ratio("publishers", Scenario::Publishers, Kind::Haproxy, Some(0.9)),
        ratio("publishers", Scenario::Publishers, Kind::Splice, None),
        ratio("publishers", Scenario::Publishers, Kind::Bare, Some(1.15)),
        absolute(&format!("{} players, MB", options.idle), Measure::Resident, Limit::AtMost(25.0)),
        absolute("added to first media p50, ms", Measure::P50, Limit::AtMost(1.0)),
        absolute("added to first media p99, ms", Measure::P99, Limit::AtMost(5.0)),
        ratio("FLV players", Scenario::Flv, Kind::HaproxyHttp, Some(1.0)),
        ratio("FLV players", Scenario::Flv, Kind::Bare, None),
        absolute("segments on one core, requests/s", Measure::Rate, Limit::AtLeast(2000.0)),
        absolute("segments on one core, errors", Measure::Errors, Limit::AtMost(0.0)),
        ratio("segments", Scenario::Segments, Kind::HaproxyHttp, None),
        datagram("WebRTC", Scenario::Webrtc),
        lost("WebRTC", Scenario::Webrtc),
        datagram("SRT", Scenario::Srt),
        lost("SRT", Scenario::Srt),
    ]
}
