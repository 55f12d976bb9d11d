//! Datagrams from made-up addresses, 5,000 a second, while real clients come and go.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use tokio::{task::spawn_blocking, time::sleep};

use crate::{
    Result,
    edge::{Edge, STREAM_ID, first_media, mb},
    options::Options,
    report::{Report, Times},
    udp::{player::Counter, srt, stun},
};

const RATE: usize = 5000;
const TIME: Duration = Duration::from_secs(10);
/// Before memory counts: what is only needed once is there then.
const WARM_UP: Duration = Duration::from_secs(2);
/// Between two real clients.
const APART: Duration = Duration::from_millis(50);
/// Sockets that wait for answers; the oldest is closed.
const OPEN: usize = 512;
/// How much memory may grow, and how long a real client may wait for its first packet.
const GROWTH: u64 = 1_000_000;
const PATIENCE: Duration = Duration::from_secs(1);
const IDLE: Duration = Duration::from_secs(30);
const KBPS: u64 = 300;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flood {
    Inductions,
    Conclusions,
    Stun,
}

/// What came of it.
#[derive(Debug, Default)]
struct Flooded {
    sent: usize,
    sent_bytes: usize,
    answers: usize,
    answer_bytes: usize,
    /// Answers that were larger than what they answered.
    larger: usize,
}

pub async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let edge = Edge::start(options.proxy.clone(), IDLE, KBPS).await?;
    let files = edge.holding()?.files;
    for flood in [Flood::Inductions, Flood::Conclusions, Flood::Stun] {
        let what = match flood {
            Flood::Inductions => "SRT inductions",
            Flood::Conclusions => "SRT conclusions with made-up cookies",
            Flood::Stun => "STUN requests with made-up user names",
        };
        under(&edge, flood, WARM_UP).await?;
        edge.wait_for_files(files).await?;
        let before = edge.holding()?;
        let (flooded, clients) = under(&edge, flood, TIME).await?;
        edge.wait_for_files(files).await?;
        let after = edge.holding()?;

        report.state(
            format!("{what} from made-up addresses in {} s", TIME.as_secs()),
            format!("{} sent, {} answered", flooded.sent, flooded.answers),
        );
        report.right(
            format!("{what}: answers larger than what they answer"),
            format!("{} ({} B answered {} B)", flooded.larger, flooded.answer_bytes, flooded.sent_bytes),
            "0",
            flooded.larger == 0 && (flood == Flood::Inductions || flooded.answers == 0),
        );
        let grown = after.memory.saturating_sub(before.memory);
        report.right(
            format!("{what}: memory before and after"),
            format!("{} and {}, {} and {} files", mb(before.memory), mb(after.memory), files, after.files),
            "flat",
            grown <= GROWTH && after.files <= files,
        );
        let failed: Vec<_> = clients.iter().filter_map(|client| client.as_ref().err()).collect();
        let times: Times = clients.iter().filter_map(|client| client.as_ref().ok()).copied().collect();
        for failure in failed.iter().take(5) {
            eprintln!("  {failure}");
        }
        report.right(
            format!("{what}: real clients that got their stream meanwhile"),
            format!("{} of {}", clients.len() - failed.len(), clients.len()),
            "all",
            failed.is_empty(),
        );
        let met = times.percentile(99) <= PATIENCE;
        report.good(format!("{what}: their first packet"), times, "p99 ≤ 1 s", met);
    }
    Ok(())
}

/// Floods a node for a time, and lets real clients play meanwhile.
async fn under(edge: &Edge, flood: Flood, time: Duration) -> Result<(Flooded, Vec<Result<Duration>>)> {
    let target = if flood == Flood::Stun { edge.webrtc } else { edge.srt };
    let flooding = spawn_blocking(move || send(flood, target, time));
    let mut clients = Vec::new();
    while !flooding.is_finished() {
        let started = Instant::now();
        clients.push(play(edge, flood).await.map(|()| started.elapsed()));
        sleep(APART).await;
    }
    let flooded = flooding.await??;
    // Not those of the flood: it must not have made any.
    edge.wait_for_sessions(0, IDLE + PATIENCE).await?;
    Ok((flooded, clients))
}

async fn play(edge: &Edge, flood: Flood) -> Result<()> {
    let counter = Counter::default();
    if flood == Flood::Stun {
        let player = edge.play_webrtc().await?;
        let session = player.session().clone();
        let outcome = first_media(player.run(&counter), &counter).await;
        session.end(edge.signalling).await?;
        return outcome;
    }
    first_media(edge.play_srt().await?.run(&counter), &counter).await
}

fn send(flood: Flood, target: SocketAddr, time: Duration) -> Result<Flooded> {
    let mut flooded = Flooded::default();
    let mut open = VecDeque::with_capacity(OPEN + 1);
    let start = Instant::now();
    while start.elapsed() < time {
        let due = (start.elapsed().as_micros() as usize * RATE) / 1_000_000;
        for _ in flooded.sent..due {
            let [a, b, c]: [u8; 3] = rand::random();
            let socket = UdpSocket::bind((Ipv4Addr::new(127, a, b, c.clamp(1, 254)), 0))?;
            socket.set_nonblocking(true)?;
            let datagram = datagram(flood, target);
            flooded.sent_bytes += socket.send_to(&datagram, target)?;
            flooded.sent += 1;
            open.push_back((socket, datagram.len()));
            if open.len() > OPEN
                && let Some((socket, asked)) = open.pop_front()
            {
                flooded.take_answers(&socket, asked);
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(200));
    open.iter().for_each(|(socket, asked)| flooded.take_answers(socket, *asked));
    Ok(flooded)
}

impl Flooded {
    fn take_answers(&mut self, socket: &UdpSocket, asked: usize) {
        let (mut buffer, mut answered) = ([0; 2048], 0);
        while let Ok(len) = socket.recv(&mut buffer) {
            self.answers += 1;
            answered += len;
        }
        self.answer_bytes += answered;
        self.larger += usize::from(answered > asked);
    }
}

fn datagram(flood: Flood, target: SocketAddr) -> Vec<u8> {
    let (socket, first) = (rand::random::<u32>() | 1, rand::random::<u32>() >> 1);
    match flood {
        Flood::Inductions => srt::induction(socket, first, target),
        Flood::Conclusions => srt::conclusion(socket, first, rand::random(), STREAM_ID, 0, target),
        Flood::Stun => stun::request(&rand::random(), &format!("{socket:08x}:{first:08x}"), "password"),
    }
}
