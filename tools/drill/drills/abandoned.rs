//! A thousand clients come and go without a word: is everything of theirs given back?

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    Result,
    edge::{Edge, mb},
    fleet::each,
    options::Options,
    report::{Report, seconds},
    udp::player::webrtc::Session,
};

/// Clients that come at once.
const WIDTH: usize = 16;
/// After what silence a session ends, and how much longer that may take to be seen.
const IDLE: Duration = Duration::from_secs(10);
const NOTICED: Duration = Duration::from_secs(10);
/// The origins go on sending to whoever is gone.
const KBPS: u64 = 4;
/// How long a node keeps for others which stream a session of WebRTC is of, whether it has ended or not.
const RECORDS: Duration = Duration::from_secs(120);
/// What the first crowds leave are records, and what an allocator keeps; those that come when records
/// are given up again must add no more than this.
const GROWTH: u64 = 1_000_000;

/// How far a client comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    /// It is answered, and never seen.
    Answer,
    /// Its STUN is answered.
    Stun,
    /// Its handshake is complete.
    Handshake,
}

pub async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let edge = Arc::new(Edge::start(options.proxy.clone(), IDLE, KBPS).await?);
    for (what, until, grows) in [
        ("WebRTC clients that go after the answer", Until::Answer, RECORDS),
        ("WebRTC clients that go after STUN", Until::Stun, RECORDS),
        ("SRT clients that go after the handshake", Until::Handshake, Duration::ZERO),
    ] {
        let (fresh, started) = (edge.holding()?, Instant::now());
        let (mut held, mut grown) = (Vec::new(), 0);
        while held.len() < grown + options.times {
            let is_growing = started.elapsed() < grows;
            let came = each(options.sessions, WIDTH, |_| come(Arc::clone(&edge), until)).await?;
            came.into_iter().collect::<Result<Vec<()>>>()?;
            let there = edge.sessions().await?;
            let during = edge.holding()?;
            let freed = edge.wait_for_sessions(0, IDLE + NOTICED).await;
            let freed_in = freed.as_ref().map_or_else(ToString::to_string, |time| seconds(*time));
            edge.wait_for_files(fresh.files).await?;
            held.push((there, during, freed.is_ok(), freed_in, edge.holding()?));
            if is_growing {
                grown = held.len();
            }
        }
        let (there, during, _, freed_in, after) = held.last().ok_or("nobody came")?;
        report.right(
            format!("{what}, {} of them {} times", options.sessions, held.len()),
            format!("{there} sessions; the last free after {freed_in}"),
            "all freed",
            held.iter().all(|(there, _, freed, ..)| *freed && *there == options.sessions),
        );
        report.right(
            format!("{what}: files before, during, after"),
            format!("{}, {}, {}", fresh.files, during.files, after.files),
            "as before",
            after.files <= fresh.files,
        );
        let settled = held.get(grown).map_or(after.memory, |(.., after)| after.memory);
        report.right(
            format!("{what}: memory before, after {}, after {}", grown + 1, held.len()),
            [fresh.memory, settled, after.memory].map(mb).join(", "),
            "no more at the end",
            after.memory <= settled + GROWTH,
        );
    }
    Ok(())
}

async fn come(edge: Arc<Edge>, until: Until) -> Result<()> {
    match until {
        Until::Answer => drop(Session::play(edge.signalling, "s").await?),
        Until::Stun => drop(edge.play_webrtc().await?),
        Until::Handshake => edge.play_srt().await?.abandon(),
    }
    Ok(())
}
