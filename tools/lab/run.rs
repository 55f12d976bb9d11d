//! The order of the measurements: round after round, in each one relay after the other.

use std::{path::Path, sync::Arc, time::Duration};

use crate::{
    Result, datagrams,
    findings::{Finding, Findings},
    latency,
    load::{self, By, Source},
    media::Media,
    options::{Kind, Options, Scenario},
    origins,
    process::Server,
    relays, report, segments,
};

/// How long memory is watched.
const IDLE_WINDOW: Duration = Duration::from_secs(5);

/// Measures everything and prints it. False if something could not be measured.
pub async fn run(options: &Options) -> Result<bool> {
    let directory = tempfile::tempdir()?;
    let mut findings = Findings::default();
    let mut complete = true;
    for scenario in &options.scenarios {
        let mut bench = Bench::prepare(*scenario, options, directory.path()).await?;
        for round in 1..=options.rounds {
            for kind in options.relays.iter().filter(|kind| scenario.applies_to(**kind)) {
                match bench.measure(*kind, round).await {
                    Ok(finding) => {
                        eprintln!("round {round}, {scenario:?}, {}: {}", kind.title(), report::brief(&finding));
                        findings.push(*scenario, *kind, round, finding);
                    }
                    Err(error) => {
                        complete = false;
                        eprintln!("round {round}, {scenario:?}, {}: failed: {error}", kind.title());
                    }
                }
            }
        }
    }
    println!("{}", report::markdown(options, &findings));
    Ok(complete)
}

/// One scenario, with what all its rounds share.
struct Bench<'a> {
    scenario: Scenario,
    options: &'a Options,
    directory: &'a Path,
    /// The stream that is played, if this is about players and the origin does not make it.
    source: Option<Source>,
    origin: Server,
    name: String,
    media: Arc<Media>,
    /// Bytes a second of the ordinary stream.
    rate: f64,
}

impl<'a> Bench<'a> {
    async fn prepare(scenario: Scenario, options: &'a Options, directory: &'a Path) -> Result<Self> {
        let origin = origins::origin(scenario, options, directory).await?;
        // An external origin may still remember the last run.
        let name = format!("bench-{}-{scenario:?}", std::process::id()).to_lowercase();
        let media = match scenario {
            Scenario::Players => Some(Media::ordinary(options.kbps)),
            Scenario::Flv if options.http_origin.is_some() => Some(Media::ordinary(options.kbps)),
            Scenario::Publishers | Scenario::Flv | Scenario::Segments | Scenario::Webrtc | Scenario::Srt => None,
            Scenario::Idle => Some(Media::trickle()),
            Scenario::Latency => Some(Media::ticking()),
        };
        let source = match media {
            // Never through a relay, which would have to pay for it.
            Some(media) => {
                let address = options.origin.unwrap_or(origin.address);
                Some(Source::start(address, name.clone(), media).await?)
            }
            None => None,
        };
        let media = Arc::new(Media::ordinary(options.kbps));
        let rate = f64::from(options.kbps) * 1000.0 / 8.0;
        Ok(Self { scenario, options, directory, source, origin, name, media, rate })
    }

    async fn measure(&mut self, kind: Kind, round: usize) -> Result<Finding> {
        let Self { options, name, rate, .. } = self;
        // A fresh process each time, so that none carries memory from one scenario into the next.
        let relay = relays::start(kind, self.scenario, self.origin.address, options, self.directory).await?;
        let address = relay.address;
        let process = || relay.process.as_ref().ok_or("a relay without a process");
        let players = async |by, count, window, rate| {
            load::players(by, address, process()?, name, count, window, rate).await.map(Finding::Load)
        };
        let finding = match self.scenario {
            Scenario::Players => players(By::Rtmp, options.players, options.window, *rate).await?,
            Scenario::Flv => players(By::Flv, options.players, options.window, *rate).await?,
            Scenario::Idle => players(By::Rtmp, options.idle, IDLE_WINDOW, 0.0).await?,
            Scenario::Publishers => {
                let name = format!("{name}-{kind:?}-{round}");
                let (count, window) = (options.publishers, options.window);
                Finding::Load(load::publishers(address, process()?, &name, count, window, &self.media, *rate).await?)
            }
            Scenario::Latency => {
                Finding::Latency(latency::measure(address, self.origin.address, name, options.connects).await?)
            }
            Scenario::Webrtc | Scenario::Srt => {
                let origin = self.origin.address;
                // nginx knows nothing of signalling.
                let signalling = if kind == Kind::Nginx { origin } else { address };
                let (scenario, process) = (self.scenario, relay.process.as_ref());
                let found = datagrams::measure(scenario, options, origin, address, signalling, process).await?;
                Finding::Datagrams(found)
            }
            Scenario::Segments => {
                let process = relay.process.as_ref();
                Finding::Segments(segments::measure(address, process, options.window, self.directory).await?)
            }
        };
        self.source.as_mut().map_or(Ok(()), Source::check)?;
        Ok(finding)
    }
}
