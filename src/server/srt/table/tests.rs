use proptest::prelude::*;

use super::*;
use crate::codec::srt::{handshake::Packet, is_shutdown, shutdown};

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../../../../tests/fixtures/srt/", $name, ".bin")).as_slice()
    };
}

const INDUCTION: &[u8] = fixture!("plain-induction-caller");
const CONCLUSION: &[u8] = fixture!("plain-conclusion-caller");
const ACCEPTED: &[u8] = fixture!("plain-conclusion-listener");
const ROUTE: u32 = 4711;

struct Node {
    table: Table<&'static str>,
    now: Instant,
}

impl Node {
    fn new() -> Self {
        let now = Instant::now();
        Self { table: Table::new(Arc::new(Cookies::new(&[3; 64], now)), 8, now), now }
    }

    fn take<'a>(&mut self, peer: SocketAddr, packet: &'a [u8]) -> Verdict<'a, '_, &'static str> {
        self.table.take(peer, packet, self.now)
    }

    /// The conclusion of a caller that has gone through the induction.
    fn conclusion(&mut self, peer: SocketAddr, socket: u32, initial_sequence: u32) -> Vec<u8> {
        let Verdict::Answer(answer) = self.take(peer, INDUCTION) else { panic!("no answer") };
        let cookie = Handshake::parse(&answer).unwrap().cookie;
        let conclusion = Handshake::parse(CONCLUSION).unwrap();
        Handshake { cookie, socket_id: socket, initial_sequence, ..conclusion }.to_bytes()
    }

    fn begin(&mut self, peer: SocketAddr, socket: u32, name: &'static str) -> Vec<u8> {
        let packet = self.conclusion(peer, socket, 7);
        let Verdict::Wanted { connection, replaced: None, .. } = self.take(peer, &packet) else { panic!("not wanted") };
        self.table.begin(connection, name);
        packet
    }
}

fn peer(port: u16) -> SocketAddr {
    ([10, 0, 0, 1], port).into()
}

/// The first connection of a socket.
fn first(port: u16, socket: u32) -> Connection {
    Connection { caller: Caller { peer: peer(port), socket }, initial_sequence: 7 }
}

fn data(destination: u32) -> Vec<u8> {
    let mut packet = fixture!("plain-data-caller").to_vec();
    packet[12..16].copy_from_slice(&destination.to_be_bytes());
    packet
}

#[test]
fn an_induction_is_answered_and_leaves_nothing_behind() {
    let mut node = Node::new();
    for n in 0..1000 {
        let Verdict::Answer(answer) = node.take(peer(n), INDUCTION) else { panic!("no answer") };
        assert!(answer.len() <= INDUCTION.len(), "more than came from an address that is not proven");
    }
    assert_eq!((node.table.remembered(), node.table.ended.len()), (0, 0));
}

#[test]
fn a_conclusion_without_induction_is_dropped_without_an_answer() {
    let mut node = Node::new();
    assert_eq!(node.take(peer(1), CONCLUSION), Verdict::Drop(Dropped::Unproven));
    let mut without = Packet::copy(CONCLUSION).unwrap();
    without.set_cookie(0);
    assert_eq!(node.take(peer(1), without.as_bytes()), Verdict::Drop(Dropped::Unproven));
    // The cookie of another address is none.
    let stolen = node.conclusion(peer(1), 5, 7);
    assert_eq!(node.take(peer(2), &stolen), Verdict::Drop(Dropped::Unproven));
    assert_eq!(node.table.remembered(), 0);
}

#[test]
fn a_session_is_found_by_the_address_and_the_socket_of_the_origin() {
    let mut node = Node::new();
    node.begin(peer(1), 5, "a");
    assert_eq!(node.take(peer(1), &data(ROUTE)), Verdict::Drop(Dropped::Unknown), "not accepted yet");
    assert!(node.table.accept(first(1, 5), ROUTE, ACCEPTED));
    assert_eq!(node.take(peer(1), &data(ROUTE)), Verdict::Relay(&"a"));
    assert_eq!(node.take(peer(1), &shutdown(ROUTE, 0)), Verdict::Relay(&"a"));
    assert_eq!(node.take(peer(1), &data(ROUTE + 1)), Verdict::Drop(Dropped::Unknown));
    assert_eq!(node.take(peer(2), &data(ROUTE)), Verdict::Drop(Dropped::Unknown), "another address");
}

#[test]
fn a_repeated_conclusion_begins_no_second_session_and_gets_the_same_answer_again() {
    let mut node = Node::new();
    let conclusion = node.begin(peer(1), 5, "a");
    assert_eq!(node.take(peer(1), &conclusion), Verdict::Repeated { session: Some(&"a"), answer: None });
    assert!(node.table.accept(first(1, 5), ROUTE, ACCEPTED));
    let again = Verdict::Repeated { session: Some(&"a"), answer: Some(ACCEPTED) };
    assert_eq!(node.take(peer(1), &conclusion), again);
    assert_eq!(node.table.len(), 1);
}

#[test]
fn two_sockets_of_one_port_are_two_sessions() {
    let mut node = Node::new();
    node.begin(peer(1), 5, "a");
    node.begin(peer(1), 6, "b");
    assert!(node.table.accept(first(1, 5), ROUTE, ACCEPTED));
    assert!(!node.table.accept(first(1, 6), ROUTE, ACCEPTED), "two origins with one socket id");
    assert!(node.table.accept(first(1, 6), ROUTE + 1, ACCEPTED));
    assert_eq!(node.take(peer(1), &data(ROUTE)), Verdict::Relay(&"a"));
    assert_eq!(node.take(peer(1), &data(ROUTE + 1)), Verdict::Relay(&"b"));
}

#[test]
fn a_socket_that_connects_anew_replaces_its_old_session() {
    let mut node = Node::new();
    node.begin(peer(1), 5, "a");
    assert!(node.table.accept(first(1, 5), ROUTE, ACCEPTED));
    let anew = node.conclusion(peer(1), 5, 8);
    let Verdict::Wanted { connection, replaced, .. } = node.take(peer(1), &anew) else { panic!("not wanted") };
    assert_eq!(replaced, Some("a"));
    assert_eq!(node.take(peer(1), &data(ROUTE)), Verdict::Drop(Dropped::Unknown));
    node.table.begin(connection, "b");
    assert!(!node.table.accept(first(1, 5), ROUTE, ACCEPTED), "the old one is too late");
    assert!(node.table.accept(connection, ROUTE, ACCEPTED));
    node.table.end(first(1, 5), None, node.now);
    assert_eq!(node.take(peer(1), &data(ROUTE)), Verdict::Relay(&"b"));
}

#[test]
fn a_conclusion_that_arrives_after_the_end_begins_nothing() {
    let mut node = Node::new();
    let conclusion = node.begin(peer(1), 5, "a");
    assert!(node.table.accept(first(1, 5), ROUTE, ACCEPTED));
    node.table.end(first(1, 5), None, node.now);
    assert_eq!(node.take(peer(1), &data(ROUTE)), Verdict::Drop(Dropped::Unknown));
    let Verdict::Answer(answer) = node.take(peer(1), &conclusion) else { panic!("no answer") };
    assert_eq!(Handshake::parse(&answer).unwrap().stage, Stage::Rejected(Reason::CLOSE));

    // A refusal is repeated as it was.
    let conclusion = node.begin(peer(2), 5, "b");
    node.table.end(first(2, 5), Some(&answer), node.now);
    let again = Verdict::Repeated { session: None, answer: Some(&answer[..]) };
    assert_eq!(node.take(peer(2), &conclusion), again);

    node.now += MEMORY;
    node.table.forget_ended(node.now);
    assert_eq!(node.table.remembered(), 0);
    assert!(matches!(node.take(peer(1), &conclusion), Verdict::Drop(Dropped::Unproven)));
    assert!(matches!(node.take(peer(2), &conclusion), Verdict::Wanted { .. }));
}

#[test]
fn those_that_ended_are_few_however_fast_they_come() {
    let mut node = Node::new();
    for port in 1..1000 {
        node.begin(peer(port), 5, "a");
        node.table.end(first(port, 5), None, node.now);
        assert!(node.table.remembered() <= 8);
    }
    // One that connects anew meanwhile is not forgotten with its former self.
    let anew = node.conclusion(peer(999), 5, 8);
    let Verdict::Wanted { connection, .. } = node.take(peer(999), &anew) else { panic!("not wanted") };
    node.table.begin(connection, "b");
    node.now += MEMORY;
    node.table.forget_ended(node.now);
    assert_eq!((node.table.remembered(), node.table.len()), (1, 1));
}

#[test]
fn what_is_no_handshake_of_a_caller_is_dropped() {
    let mut node = Node::new();
    let conclusion = node.conclusion(peer(1), 5, 7);
    let read = Handshake::parse(&conclusion).unwrap();
    for stage in [Stage::WaveAHand, Stage::Agreement, Stage::Done, Stage::Rejected(Reason::DOWN), Stage::Other(5)] {
        let packet = Handshake { stage, ..read }.to_bytes();
        assert_eq!(node.take(peer(1), &packet), Verdict::Drop(Dropped::Malformed));
    }
    let no_socket = Handshake { socket_id: 0, ..read }.to_bytes();
    let to_nobody = shutdown(0, 0);
    assert!(is_shutdown(&to_nobody));
    for packet in [&no_socket[..], &to_nobody, &conclusion[..63], &conclusion[..15], &[]] {
        assert_eq!(node.take(peer(1), packet), Verdict::Drop(Dropped::Malformed));
    }
}

#[test]
fn a_conclusion_that_no_listener_takes_is_refused_at_once() {
    let mut node = Node::new();
    let conclusion = node.conclusion(peer(1), 5, 7);
    let read = Handshake::parse(&conclusion).unwrap();
    for (flawed, reason) in [
        (Handshake { version: 3, ..read }, Reason::VERSION),
        (Handshake { version: 6, ..read }, Reason::VERSION),
        (Handshake { initial_sequence: 0x8000_0000, ..read }, Reason::ROGUE),
        (Handshake { mtu: 31, ..read }, Reason::ROGUE),
        (Handshake { flow_window: 1, ..read }, Reason::ROGUE),
    ] {
        let packet = flawed.to_bytes();
        let Verdict::Answer(answer) = node.take(peer(1), &packet) else { panic!("no answer") };
        assert_eq!(Handshake::parse(&answer).unwrap().stage, Stage::Rejected(reason));
    }
    assert_eq!(node.table.remembered(), 0);
}

proptest! {
    #[test]
    fn any_packet_from_anywhere_leaves_the_table_as_it_was(
        start in prop_oneof![Just([0x80, 0]), any::<[u8; 2]>()],
        rest in prop::collection::vec(any::<u8>(), 0..120),
        addressed in any::<bool>(),
    ) {
        let mut node = Node::new();
        node.begin(peer(1), 5, "a");
        prop_assert!(node.table.accept(first(1, 5), ROUTE, ACCEPTED));
        let mut packet = [&start[..], &rest].concat();
        if addressed && packet.len() >= 16 {
            packet[12..16].fill(0);
        }
        match node.take(peer(1), &packet) {
            Verdict::Answer(answer) => prop_assert!(answer.len() <= packet.len()),
            Verdict::Drop(_) | Verdict::Relay(_) => {}
            other => prop_assert!(false, "{other:?}"),
        }
        prop_assert_eq!(node.table.remembered(), 1);
    }
}
