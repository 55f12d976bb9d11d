//! A thousand clients come and go without a word: is everything of theirs given back?

use std::{sync::Arc, time::Duration};

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
/// What the first crowd leaves is what an allocator keeps; the others must add no more than this.
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
    for (what, until) in [
        ("WebRTC clients that go after the answer", Until::Answer),
        ("WebRTC clients that go after STUN", Until::Stun),
        ("SRT clients that go after the handshake", Until::Handshake),
    ] {
        let fresh = edge.holding()?;
        let mut held = Vec::new();
        for _ in 0..options.times {
            let came = each(options.sessions, WIDTH, |_| come(Arc::clone(&edge), until)).await?;
            came.into_iter().collect::<Result<Vec<()>>>()?;
            let there = edge.sessions().await?;
            let during = edge.holding()?;
            let freed = edge.wait_for_sessions(0, IDLE + NOTICED).await;
            let freed_in = freed.as_ref().map_or_else(ToString::to_string, |time| seconds(*time));
            edge.wait_for_files(fresh.files).await?;
            eprintln!("  {}", mb(edge.holding()?.memory));
            held.push((there, during, freed.is_ok(), freed_in, edge.holding()?));
        }
        let (there, during, _, freed_in, after) = held.last().ok_or("nobody came")?;
        report.right(
            format!("{what}, {} of them {} times", options.sessions, options.times),
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
        let first = held.first().map_or(after.memory, |(.., after)| after.memory);
        report.right(
            format!("{what}: memory before, during, after the first, after the last"),
            [fresh.memory, during.memory, first, after.memory].map(mb).join(", "),
            "no more after the last than after the first",
            after.memory <= first + GROWTH,
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
