//! Datagrams that are cut short, or lie about themselves: nobody else notices.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use srs_proxy::codec::{
    srt::handshake::{Handshake, LEN},
    stun::{Class, is_stun},
};
use tokio::{
    net::UdpSocket,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{
    Result,
    edge::{Edge, STREAM_ID, first_media},
    options::Options,
    report::Report,
    udp::{player::Counter, srt, stun},
};

const IDLE: Duration = Duration::from_secs(30);
const KBPS: u64 = 300;
const COOKIE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long answers are waited for.
const ANSWERS: Duration = Duration::from_millis(500);
/// Within what time the streams of those who play must go on.
const GOES_ON: Duration = Duration::from_secs(3);
const CUT: &[u8] = b"0123456789";
const LARGE: usize = 60_000;

/// Something wrong: what it is, whether it goes to SRT, and its datagrams.
type Case = (String, bool, Vec<Vec<u8>>);

pub async fn run(options: &Options, report: &mut Report) -> Result<()> {
    let edge = Edge::start(options.proxy.clone(), IDLE, KBPS).await?;
    let counters: [Arc<Counter>; 2] = Default::default();
    let (webrtc, srt) = (edge.play_webrtc().await?, edge.play_srt().await?);
    let mut players = JoinSet::new();
    let [seen_by_webrtc, seen_by_srt] = counters.clone();
    players.spawn(async move { webrtc.run(&seen_by_webrtc).await });
    players.spawn(async move { srt.run(&seen_by_srt).await });

    // Each time from a port that has proved itself by an induction.
    for len in 0..4 {
        let caller = Caller::induced(edge.srt).await?;
        let conclusion = caller.conclusion();
        let name = format!("an SRT conclusion with {len} bytes of extensions");
        caller.send(&edge, (name, true, vec![conclusion[..LEN + len].to_vec()]), report).await?;
    }
    let caller = Caller::induced(edge.srt).await?;
    let lies = lies(&caller.conclusion());
    caller.send(&edge, ("SRT extensions that claim more than there is".to_owned(), true, lies), report).await?;
    let caller = Caller::induced(edge.srt).await?;
    let prefixes = prefixes(&caller.conclusion());
    caller.send(&edge, ("every beginning of an SRT conclusion".to_owned(), true, prefixes), report).await?;
    for case in unproven(edge.srt) {
        let target = if case.1 { edge.srt } else { edge.webrtc };
        Caller::new(target).await?.send(&edge, case, report).await?;
    }

    counters.iter().for_each(|counter| drop(counter.take()));
    let started = Instant::now();
    while counters.iter().any(|counter| counter.media() == 0) && started.elapsed() < GOES_ON {
        sleep(Duration::from_millis(10)).await;
    }
    let play_on = counters.iter().filter(|counter| counter.media() > 0).count();
    report.right("players from before whose stream goes on", play_on, "2", play_on == 2 && players.len() == 2);
    let counter = Counter::default();
    let webrtc = first_media(edge.play_webrtc().await?.run(&counter), &counter).await;
    let counter = Counter::default();
    let srt = first_media(edge.play_srt().await?.run(&counter), &counter).await;
    let served = [webrtc, srt].iter().filter(|player| player.is_ok()).count();
    report.right("players that come afterwards", served, "2", served == 2);
    Ok(())
}

/// A client of either protocol, with a port of its own.
struct Caller {
    socket: UdpSocket,
    id: u32,
    cookie: u32,
    server: SocketAddr,
}

impl Caller {
    async fn new(server: SocketAddr) -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").await?;
        socket.connect(server).await?;
        Ok(Self { socket, id: rand::random::<u32>() >> 2 | 1, cookie: 0, server })
    }

    async fn induced(server: SocketAddr) -> Result<Self> {
        let mut caller = Self::new(server).await?;
        caller.socket.send(&srt::induction(caller.id, 1, server)).await?;
        let mut buffer = [0; 2048];
        let len = timeout(COOKIE_TIMEOUT, caller.socket.recv(&mut buffer)).await??;
        caller.cookie = Handshake::parse(&buffer[..len])?.cookie;
        Ok(caller)
    }

    fn conclusion(&self) -> Vec<u8> {
        srt::conclusion(self.id, 1, self.cookie, STREAM_ID, 0, self.server)
    }

    /// Sends a case, and reports whether the node lives, and how much came back.
    async fn send(&self, edge: &Edge, (what, _, datagrams): Case, report: &mut Report) -> Result<()> {
        let (mut sent, mut answered) = (0, 0);
        for datagram in &datagrams {
            // A listener that is gone shows as an error here; whether it is is asked below.
            sent += self.socket.send(datagram).await.unwrap_or_default();
        }
        let mut buffer = vec![0; 65_536];
        while let Ok(Ok(len)) = timeout(ANSWERS, self.socket.recv(&mut buffer)).await {
            // A conclusion that is whole begins a session, whose stream is no answer.
            if Handshake::parse(&buffer[..len]).is_ok() || is_stun(&buffer[..len]) {
                answered += len;
            } else {
                break;
            }
        }
        let alive = edge.is_alive().await;
        report.right(
            what,
            format!("{}; {sent} B sent, {answered} B answered", if alive { "alive" } else { "dead" }),
            "alive, no more answered than sent",
            alive && answered <= sent,
        );
        Ok(())
    }
}

/// What comes from ports that have not proved anything.
fn unproven(server: SocketAddr) -> Vec<Case> {
    let whole = |cookie| srt::conclusion(1, 1, cookie, STREAM_ID, 0, server);
    let transaction = [7; 12];
    let request = stun::request(&transaction, "ours:theirs", "password");
    let mut cut = stun::message(Class::Request, &transaction, &[]);
    // A user name of 40 bytes of which 10 are there, first with a message that admits it.
    cut.extend([0, 6, 0, 40]);
    cut.extend(CUT);
    let admits = with_length(&cut, CUT.len() as u16 + 4);
    let claims = with_length(&cut, 44);
    let mut unpadded = stun::message(Class::Request, &transaction, &[]);
    unpadded.extend([0, 6, 0, 5]);
    unpadded.extend(&CUT[..5]);
    let unpadded = [with_length(&unpadded, 9), with_length(&unpadded, 12)].to_vec();
    vec![
        ("an SRT conclusion without induction".to_owned(), true, vec![whole(0), whole(0x418D_5E4E)]),
        ("a STUN attribute that is cut short".to_owned(), false, vec![admits, claims]),
        ("a STUN attribute without its padding".to_owned(), false, unpadded),
        ("every beginning of a STUN request".to_owned(), false, prefixes(&request)),
        ("an empty datagram and a large one for WebRTC".to_owned(), false, vec![vec![], vec![0; LARGE]]),
        ("an empty datagram and a large one for SRT".to_owned(), true, vec![vec![], vec![0x80; LARGE]]),
    ]
}

/// Every proper beginning of a datagram.
fn prefixes(datagram: &[u8]) -> Vec<Vec<u8>> {
    (0..datagram.len()).map(|len| datagram[..len].to_vec()).collect()
}

/// A conclusion whose extensions say that they are longer than they are, each in turn.
fn lies(conclusion: &[u8]) -> Vec<Vec<u8>> {
    let mut lies = Vec::new();
    let mut at = LEN;
    while let Some(&[_, _, high, low]) = conclusion.get(at..at + 4) {
        for claimed in [u16::MAX, u16::from_be_bytes([high, low]) + 1000] {
            let mut lie = conclusion.to_vec();
            lie[at + 2..at + 4].copy_from_slice(&claimed.to_be_bytes());
            lies.push(lie);
        }
        at += 4 + 4 * usize::from(u16::from_be_bytes([high, low]));
    }
    lies
}

fn with_length(message: &[u8], len: u16) -> Vec<u8> {
    let mut message = message.to_vec();
    message[2..4].copy_from_slice(&len.to_be_bytes());
    message
}
