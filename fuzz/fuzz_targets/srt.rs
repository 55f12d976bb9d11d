//! Any bytes as packets of SRT: no panic, what is read is what was written, an address that proves
//! nothing gets no more than it sent, and no packet starts or ends a session that it should not.

#![no_main]

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use libfuzzer_sys::fuzz_target;
use srs_proxy::{
    codec::srt::{
        destination,
        handshake::{Handshake, LEN, Packet},
        is_handshake, is_shutdown, kind,
        stream_id::StreamId,
    },
    server::srt::{
        cookie::Cookies,
        dialogue::{Answer, Dialogue, Next},
        table::{Caller, Table, Verdict},
    },
};

const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9000);
const ORIGIN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const LIMIT: Duration = Duration::from_secs(1);
static START: LazyLock<Instant> = LazyLock::new(Instant::now);
static COOKIES: LazyLock<Arc<Cookies>> = LazyLock::new(|| Arc::new(Cookies::new(&[7; 64], *START)));

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    // With what every handshake has, the fuzzer finds the rest sooner.
    let mut framed = vec![0; 16];
    framed[0] = 0x80;
    framed.extend_from_slice(bytes);
    read(&framed);
    caller(&framed);
    let (first, second) = framed.split_at(framed.len().min(usize::from(bytes.first().copied().unwrap_or_default())));
    origin(&framed, [first, second]);
});

fn read(packet: &[u8]) {
    assert_eq!(kind(packet).is_some(), destination(packet).is_some());
    assert!(!(is_handshake(packet) && is_shutdown(packet)));
    if let Ok(handshake) = Handshake::parse(packet) {
        let written = handshake.to_bytes();
        assert_eq!(Handshake::parse(&written), Ok(handshake));
        assert_eq!((&written[8..], written.len()), (&packet[8..], packet.len()));
        assert!(handshake.extensions().count() <= packet.len() / 4);
        let _ = handshake.stream_id().map(|id| id.map(|id| StreamId::parse(&id)));
    }
    if let Ok(id) = std::str::from_utf8(packet) {
        let _ = StreamId::parse(id);
    }
}

fn caller(packet: &[u8]) {
    let now = *START;
    // The fuzzer sees what its input is compared with, and learns the cookie.
    if Handshake::parse(packet).is_ok_and(|handshake| COOKIES.check(handshake.cookie, PEER, now)) {
        return;
    }
    let mut table = Table::new(Arc::clone(&COOKIES), 4, now);
    match table.take(PEER, packet, now) {
        Verdict::Answer(answer) => assert!(answer.len() <= packet.len()),
        Verdict::Drop(_) => {}
        _ => panic!("an unproven packet has an effect"),
    }
    assert_eq!(table.remembered(), 0);

    let Ok(mut proven) = Packet::copy(packet) else { return };
    proven.set_cookie(COOKIES.make(PEER, now));
    let proven = proven.as_bytes();
    let socket = Handshake::parse(packet).expect("copied").socket_id;
    let Verdict::Wanted { connection, replaced: None, .. } = table.take(PEER, proven, now) else { return };
    assert_eq!(connection.caller, Caller { peer: PEER, socket });
    table.begin(connection, ());
    assert!(matches!(table.take(PEER, proven, now), Verdict::Repeated { session: Some(()), answer: None }));
    assert!(table.accept(connection, 1, proven));
    table.end(connection, None, now);
    assert!(table.is_empty() && table.remembered() == 1);
    table.forget_ended(now + Duration::from_secs(10));
    assert_eq!(table.remembered(), 0);
}

fn origin(conclusion: &[u8], answers: [&[u8]; 2]) {
    let mut now = *START;
    let Ok(mut dialogue) = Dialogue::new(conclusion, PEER.ip(), ORIGIN, LIMIT, now) else { return };
    let socket = Handshake::parse(conclusion).expect("taken").socket_id;
    for answer in answers {
        let mut answer = answer.to_vec();
        if answer.len() >= LEN {
            answer[..2].copy_from_slice(&[0x80, 0]);
            answer[12..16].copy_from_slice(&socket.to_be_bytes());
        }
        match dialogue.receive(&answer, now) {
            Some(Answer::Accepted { packet, socket }) => assert!(socket != 0 && packet.as_bytes().len() == answer.len()),
            Some(Answer::Rejected { packet, .. }) => assert_eq!(packet.as_bytes().len(), answer.len()),
            None => {}
        }
    }
    for _ in 0..100 {
        match dialogue.poll(now) {
            Next::Send(packet) => assert!(packet.len() == LEN || packet.len() == conclusion.len()),
            Next::Wait(until) => {
                assert!(until > now);
                now = until;
            }
            Next::Expired(_) => return,
        }
    }
    panic!("the handshake with an origin has no end");
}
