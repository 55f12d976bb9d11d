//! WebRTC and SRT: what it costs to relay datagrams, whether all arrive, and how late.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    Result,
    options::{Options, Scenario},
    process::Process,
    stats::percentile,
    udp::{
        origin::{self, Origin, Protocol},
        player::{self, Counter, Seen},
        stream::{bursts, srt_interval},
    },
};

/// How long everything runs before it is measured.
const SETTLE: Duration = Duration::from_secs(2);
/// Between the starts of two players.
const APART: Duration = Duration::from_millis(2);
/// The least part of the time for which each player must be in its stream for a measurement to count, and
/// of the players' own packets that must reach the origin.
const LEAST: f64 = 0.9;
const LEAST_FEEDBACK: f64 = 0.99;
/// As long as it takes a stream to be like any other part of it.
const RATE_OVER: Duration = Duration::from_secs(60);
const STREAM: &str = "s";

/// What one measurement found.
#[derive(Debug, Clone, Copy)]
pub struct Datagrams {
    /// CPU time of the relay, if there was one.
    pub cpu: Option<Duration>,
    /// What arrived at the players, and from them at the origin.
    pub relayed: u64,
    /// Packets of the stream that should have arrived at players but did not.
    pub lost: u64,
    /// For how long.
    pub time: Duration,
    /// From the origin to a player, in milliseconds.
    pub p50: f64,
    /// What one packet in a hundred exceeds.
    pub p99: f64,
}

impl Datagrams {
    /// Datagrams a second.
    pub fn rate(&self) -> f64 {
        self.relayed as f64 / self.time.as_secs_f64()
    }

    /// CPU time for each datagram, in microseconds.
    pub fn micros_per_packet(&self) -> Option<f64> {
        self.cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / self.relayed as f64)
    }
}

/// Serves one stream until it is killed. The arguments are the protocol, the address of media and HTTP,
/// and the stream's rate in kbit/s.
pub fn run_origin(args: &[String]) -> Result<()> {
    let [protocol, address, kbps] = args else { return Err("usage: udp-origin PROTOCOL ADDRESS KBPS".into()) };
    let protocol = match protocol.as_str() {
        "webrtc" => Protocol::Webrtc,
        "srt" => Protocol::Srt,
        other => return Err(format!("what is {other}?").into()),
    };
    let _origin = Origin::start(protocol, address.parse()?, kbps.parse()?)?;
    loop {
        std::thread::park();
    }
}

/// The players of a scenario play through `relay`; `signalling` is where WebRTC's are answered. What is
/// offered to players as the place of media counts only if that is the relay itself.
pub async fn measure(
    scenario: Scenario,
    options: &Options,
    origin: SocketAddr,
    relay: SocketAddr,
    signalling: SocketAddr,
    process: Option<&Process>,
) -> Result<Datagrams> {
    let count = if scenario == Scenario::Webrtc { options.webrtc_players } else { options.srt_players };
    let counters: Vec<Arc<Counter>> = (0..count).map(|_| Arc::default()).collect();
    let (mut players, mut sessions) = (JoinSet::new(), Vec::new());
    for counter in &counters {
        let counter = Arc::clone(counter);
        if scenario == Scenario::Webrtc {
            let session = player::webrtc::Session::play(signalling, STREAM).await?;
            if signalling == relay && session.candidates.iter().any(|candidate| *candidate != relay) {
                return Err(format!("the answer names {:?}, not {relay}", session.candidates).into());
            }
            let player = player::webrtc::Player::join(session.clone(), relay).await?;
            sessions.push(session);
            players.spawn(async move { player.run(&counter).await });
        } else {
            let player = player::srt::Player::call(relay, &format!("#!::r=live/{STREAM},m=request")).await?;
            players.spawn(async move { player.run(&counter).await });
        }
        sleep(APART).await;
    }
    run_for(&mut players, SETTLE).await?;

    let cpu = || process.map(Process::cpu).transpose();
    let (fed, used, start) = (origin::moved(origin).await?.received, cpu()?, Instant::now());
    counters.iter().for_each(|counter| drop(counter.take()));
    run_for(&mut players, options.window).await?;
    let used = cpu()?.zip(used).map(|(after, before)| after.saturating_sub(before));
    let (seen, time): (Vec<Seen>, _) = (counters.iter().map(|counter| counter.take()).collect(), start.elapsed());
    let fed = origin::moved(origin).await?.received - fed;
    players.shutdown().await;
    for session in sessions {
        session.end(signalling).await?;
    }

    let expected = rate(scenario, options) * time.as_secs_f64() * LEAST;
    let stopped = seen.iter().filter(|seen| ((seen.media + seen.lost()) as f64) < expected).count();
    if stopped > 0 {
        return Err(format!("the stream stopped or stalled for {stopped} of {count} players").into());
    }
    let sent: u64 = seen.iter().map(|seen| seen.sent).sum();
    if (fed as f64) < sent as f64 * LEAST_FEEDBACK {
        return Err(format!("the origin got {fed} of {sent} datagrams").into());
    }
    let delays: Vec<f64> = seen.iter().flat_map(|seen| &seen.delays).map(|micros| f64::from(*micros) / 1e3).collect();
    Ok(Datagrams {
        cpu: used,
        relayed: fed + seen.iter().map(|seen| seen.received).sum::<u64>(),
        lost: seen.iter().map(Seen::lost).sum(),
        time,
        p50: percentile(&delays, 0.50),
        p99: percentile(&delays, 0.99),
    })
}

/// Packets of the stream for each player in a second.
fn rate(scenario: Scenario, options: &Options) -> f64 {
    if scenario == Scenario::Srt {
        return 1.0 / srt_interval(options.udp_kbps).as_secs_f64();
    }
    let second = bursts(options.udp_kbps).take_while(|burst| burst.at < RATE_OVER);
    second.map(|burst| burst.packets).sum::<usize>() as f64 / RATE_OVER.as_secs_f64()
}

async fn run_for(players: &mut JoinSet<Result<()>>, time: Duration) -> Result<()> {
    tokio::select! {
        () = sleep(time) => Ok(()),
        Some(ended) = players.join_next() => match ended? {
            Ok(()) => Err("a player ended".into()),
            Err(error) => Err(format!("a player ended: {error}").into()),
        },
    }
}
