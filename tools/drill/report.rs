//! Figures, and whether they are what they must be.

use std::{
    fmt::{self, Display},
    fs,
    time::Duration,
};

/// What the drills found.
#[derive(Debug, Default)]
pub struct Report {
    drill: String,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    drill: String,
    what: String,
    measured: String,
    target: String,
    verdict: Verdict,
}

/// Whether a figure is what it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Pass,
    /// Too slow or too dear.
    Miss,
    /// Not right.
    Wrong,
    /// Nothing was asked of it.
    Stated,
}

impl Report {
    /// What comes now belongs to this drill.
    pub fn begin(&mut self, drill: &str) {
        drill.clone_into(&mut self.drill);
        eprintln!("{drill}");
    }

    /// A figure that is right or wrong.
    pub fn right(&mut self, what: impl Display, measured: impl Display, target: &str, met: bool) {
        self.add(what, measured, target, if met { Verdict::Pass } else { Verdict::Wrong });
    }

    /// A figure that is good or not so good.
    pub fn good(&mut self, what: impl Display, measured: impl Display, target: &str, met: bool) {
        self.add(what, measured, target, if met { Verdict::Pass } else { Verdict::Miss });
    }

    /// A figure to know.
    pub fn state(&mut self, what: impl Display, measured: impl Display) {
        self.add(what, measured, "", Verdict::Stated);
    }

    fn add(&mut self, what: impl Display, measured: impl Display, target: &str, verdict: Verdict) {
        let row = Row {
            drill: self.drill.clone(),
            what: what.to_string(),
            measured: measured.to_string(),
            target: target.to_owned(),
            verdict,
        };
        eprintln!("  {}: {} {verdict}", row.what, row.measured);
        self.rows.push(row);
    }

    /// Whether nothing was wrong.
    pub fn is_right(&self) -> bool {
        self.rows.iter().all(|row| row.verdict != Verdict::Wrong)
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pass => "PASS",
            Self::Miss => "MISS",
            Self::Wrong => "MISS (wrong)",
            Self::Stated => "",
        })
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Machine: {}.\n", machine())?;
        writeln!(f, "| drill | what | measured | target | |\n|---|---|---|---|---|")?;
        for Row { drill, what, measured, target, verdict } in &self.rows {
            writeln!(f, "| {drill} | {what} | {measured} | {target} | {verdict} |")?;
        }
        Ok(())
    }
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{cores} cores ({}), Linux {}", model.map_or("unknown", |(_, name)| name.trim()), kernel.trim())
}

/// Durations in order.
#[derive(Debug, Clone, Default)]
pub struct Times(Vec<Duration>);

impl FromIterator<Duration> for Times {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Self {
        let mut times: Vec<_> = times.into_iter().collect();
        times.sort_unstable();
        Self(times)
    }
}

impl Times {
    /// The smallest that at least `percent` of 100 do not exceed; zero if there are none.
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(rank).copied().unwrap_or_default()
    }

    /// The largest.
    pub fn max(&self) -> Duration {
        self.0.last().copied().unwrap_or_default()
    }
}

impl Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {}, p99 {}, max {}", ms(self.percentile(50)), ms(self.percentile(99)), ms(self.max()))
    }
}

/// Milliseconds, for people.
pub fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}

/// Seconds, for people.
pub fn seconds(time: Duration) -> String {
    format!("{:.2} s", time.as_secs_f64())
}
