use proptest::prelude::*;

use super::*;

const CLUSTER: &str = "srs-proxy";
const OLD: &str = "the old key of it";
const NEW: &str = "the new key of it";

fn now() -> Now {
    Now { wall: 1_800_000_000_000, monotonic: Instant::now() }
}

fn later(now: Now, by: Duration) -> Now {
    Now { wall: now.wall + by.as_millis() as u64, monotonic: now.monotonic + by }
}

fn keys(secrets: &[&'static str]) -> Keys {
    Keys::new(CLUSTER, secrets.iter().copied())
}

fn opener(secrets: &[&'static str]) -> Opener {
    Opener::new(keys(secrets), [0; 16])
}

fn sealer(secrets: &[&'static str]) -> Sealer {
    Sealer::new(&keys(secrets), [1; 16])
}

fn packets(sealer: &mut Sealer, envelope: &[u8], now: Now) -> Vec<Vec<u8>> {
    let Some(mut cut) = sealer.cut(envelope) else { return Vec::new() };
    std::iter::from_fn(|| sealer.next(&mut cut, envelope, now).map(<[u8]>::to_vec)).collect()
}

fn open(opener: &mut Opener, packet: &[u8], now: Now) -> Result<Option<Vec<u8>>, Reason> {
    opener.open(&mut packet.to_vec(), now).map(|opened| opened.envelope.map(<[u8]>::to_vec))
}

fn envelope(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 7 + at / 251) as u8).collect()
}

#[test]
fn envelopes_of_every_length_come_through_in_packets_of_a_bounded_length() {
    for secrets in [&[OLD][..], &[]] {
        let (mut sealer, mut opener) = (sealer(secrets), opener(secrets));
        for length in [1, FRAGMENT - 1, FRAGMENT, FRAGMENT + 1, 2 * FRAGMENT, MAX_ENVELOPE] {
            let sent = envelope(length);
            let packets = packets(&mut sealer, &sent, now());
            assert_eq!(packets.len(), length.div_ceil(FRAGMENT));
            assert!(packets.iter().all(|packet| packet.len() <= MAX_PACKET));
            let mut received: Vec<_> = packets.iter().map(|packet| open(&mut opener, packet, now()).unwrap()).collect();
            assert_eq!(received.pop(), Some(Some(sent)), "{length}");
            assert!(received.iter().all(Option::is_none));
        }
        assert!(sealer.cut(&[]).is_none() && sealer.cut(&envelope(MAX_ENVELOPE + 1)).is_none());
    }
}

#[test]
fn reordered_packets_make_the_envelope_and_repeated_ones_are_refused() {
    let (mut sealer, mut opener) = (sealer(&[OLD]), opener(&[OLD]));
    let sent = envelope(5 * FRAGMENT);
    let packets = packets(&mut sealer, &sent, now());
    for packet in packets[1..].iter().rev() {
        assert_eq!(open(&mut opener, packet, now()), Ok(None));
        assert_eq!(open(&mut opener, packet, now()), Err(Reason::Replay));
    }
    assert_eq!(open(&mut opener, &packets[0], now()), Ok(Some(sent)));
    assert!(packets.iter().all(|packet| open(&mut opener, packet, now()) == Err(Reason::Replay)));
}

#[test]
fn a_lost_packet_costs_its_envelope_and_no_other() {
    let (mut sealer, mut opener) = (sealer(&[OLD]), opener(&[OLD]));
    for lost in 0..3 {
        for (index, packet) in packets(&mut sealer, &envelope(3 * FRAGMENT), now()).iter().enumerate() {
            assert!(index == lost || open(&mut opener, packet, now()) == Ok(None));
        }
    }
    let whole = envelope(3 * FRAGMENT);
    let received: Vec<_> =
        packets(&mut sealer, &whole, now()).iter().map(|packet| open(&mut opener, packet, now())).collect();
    assert_eq!(received, [Ok(None), Ok(None), Ok(Some(whole))]);
}

#[test]
fn every_bit_of_a_packet_is_authenticated() {
    let mut sealer = sealer(&[OLD]);
    let packet = packets(&mut sealer, b"envelope", now()).remove(0);
    let mut opener = opener(&[OLD]);
    for bit in 0..packet.len() * 8 {
        let mut forged = packet.clone();
        forged[bit / 8] ^= 1 << (bit % 8);
        assert!(open(&mut opener, &forged, now()).is_err(), "bit {bit}");
    }
    for length in 0..packet.len() {
        assert!(open(&mut opener, &packet[..length], now()).is_err(), "{length} bytes");
    }
    assert!(opener.runs.is_empty(), "what is forged is not remembered");
    assert_eq!(open(&mut opener, &packet, now()), Ok(Some(b"envelope".to_vec())));
}

#[test]
fn packets_of_others_are_told_apart() {
    let ours = || opener(&[OLD]);
    let from = |cluster: &str, secrets: &[&'static str]| {
        let mut sealer = Sealer::new(&Keys::new(cluster, secrets.iter().copied()), [1; 16]);
        packets(&mut sealer, b"envelope", now()).remove(0)
    };
    assert_eq!(open(&mut ours(), &from("other", &[OLD]), now()), Err(Reason::ForeignCluster));
    assert_eq!(open(&mut ours(), &from(CLUSTER, &[NEW]), now()), Err(Reason::BadSeal));
    assert_eq!(open(&mut ours(), &from(CLUSTER, &[]), now()), Err(Reason::BadSeal));
    assert_eq!(open(&mut opener(&[]), &from(CLUSTER, &[OLD]), now()), Err(Reason::BadSeal));
    assert_eq!(open(&mut opener(&[]), &from("other", &[]), now()), Err(Reason::ForeignCluster));
    assert_eq!(open(&mut ours(), &envelope(500), now()), Err(Reason::Garbage));
    assert_eq!(open(&mut ours(), &[0; MAX_PACKET + 1], now()), Err(Reason::Oversize));

    let mut myself = Sealer::new(&keys(&[OLD]), [0; 16]);
    assert_eq!(open(&mut ours(), &packets(&mut myself, b"me", now())[0], now()), Err(Reason::Own));
}

#[test]
fn the_same_key_in_another_cluster_opens_nothing_even_with_a_forged_header() {
    let mut other = Sealer::new(&Keys::new("other", [OLD]), [1; 16]);
    other.cluster = keys(&[OLD]).cluster;
    other.key = other.key.map(|(_, key)| (keys(&[OLD]).keys[0].id, key));
    let packet = packets(&mut other, b"envelope", now()).remove(0);
    assert_eq!(open(&mut opener(&[OLD]), &packet, now()), Err(Reason::BadSeal));
}

#[test]
fn a_recording_is_refused_by_a_node_that_has_restarted() {
    let mut sealer = sealer(&[OLD]);
    let packet = packets(&mut sealer, b"envelope", now()).remove(0);
    let still = later(now(), MAX_CLOCK_DIFFERENCE);
    assert!(open(&mut opener(&[OLD]), &packet, still).is_ok());
    let too_late = later(still, Duration::from_millis(1));
    assert_eq!(open(&mut opener(&[OLD]), &packet, too_late), Err(Reason::Clock));
    let behind = Now { wall: now().wall - 60_001, ..now() };
    assert_eq!(open(&mut opener(&[OLD]), &packet, behind), Err(Reason::Clock));
}

#[test]
fn a_run_is_forgotten_only_when_its_packets_are_too_old_to_be_replayed() {
    let start = now();
    let mut opener = opener(&[OLD]);
    let run = |index: usize| {
        let mut run = [2; 16];
        run[..8].copy_from_slice(&index.to_be_bytes());
        run
    };
    let one = |index: usize, at: Now| packets(&mut Sealer::new(&keys(&[OLD]), run(index)), b"x", at).remove(0);
    for index in 0..MAX_RUNS {
        assert!(open(&mut opener, &one(index, start), start).is_ok());
    }
    assert_eq!(open(&mut opener, &one(MAX_RUNS, start), start), Err(Reason::Overflow));
    assert_eq!(open(&mut opener, &one(0, start), start), Err(Reason::Replay));
    let later = later(start, RUN_MEMORY);
    assert!(open(&mut opener, &one(MAX_RUNS, later), later).is_ok());
    assert_eq!(opener.runs.len(), 1);
    assert_eq!(open(&mut opener, &one(0, start), later), Err(Reason::Clock));
}

#[test]
fn keys_are_changed_node_by_node_without_a_packet_refused() {
    let steps: [&[&str]; 4] = [&[OLD], &[OLD, NEW], &[NEW, OLD], &[NEW]];
    for pair in steps.windows(2) {
        for (from, to) in [(pair[0], pair[1]), (pair[1], pair[0])] {
            let mut sealer = Sealer::new(&Keys::new(CLUSTER, from.iter().copied()), [1; 16]);
            let mut opener = Opener::new(Keys::new(CLUSTER, to.iter().copied()), [0; 16]);
            let packet = packets(&mut sealer, b"envelope", now()).remove(0);
            assert!(open(&mut opener, &packet, now()).is_ok(), "{from:?} to {to:?}");
        }
    }
}

#[test]
fn a_run_ends_rather_than_use_a_nonce_twice() {
    let mut sealer = sealer(&[OLD]);
    sealer.number = Some(u64::MAX);
    assert_eq!(packets(&mut sealer, &envelope(3 * FRAGMENT), now()).len(), 1);
    assert!(packets(&mut sealer, b"x", now()).is_empty());
}

#[test]
fn no_two_packets_are_sealed_alike() {
    let mut seen = std::collections::HashSet::new();
    for run in [[1; 16], [2; 16]] {
        let mut sealer = Sealer::new(&keys(&[OLD]), run);
        for _ in 0..100 {
            let packet = packets(&mut sealer, b"the same words", now()).remove(0);
            assert!(seen.insert(packet[HEADER..].to_vec()));
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_harm(bytes in prop::collection::vec(any::<u8>(), 0..1300), sealed: bool) {
        let mut opener = if sealed { opener(&[OLD]) } else { opener(&[]) };
        let mut framed = bytes.clone();
        if framed.len() >= HEADER {
            let cluster = keys(&[]).cluster;
            let header = Header { key: None, cluster, run: [9; 16], number: 1, sealed_at: now().wall };
            framed[..HEADER].copy_from_slice(&header.encode());
        }
        prop_assert!(open(&mut opener, &bytes, now()).is_err());
        let _ = open(&mut opener, &framed, now());
    }

    #[test]
    fn envelopes_come_through_in_any_order_of_their_packets(
        lengths in prop::collection::vec(1..4 * FRAGMENT, 1..4), seed: u64
    ) {
        let (mut sealer, mut opener) = (sealer(&[OLD]), opener(&[OLD]));
        let envelopes: Vec<_> = lengths.iter().map(|length| envelope(*length)).collect();
        let mut sent: Vec<_> = envelopes.iter().flat_map(|one| packets(&mut sealer, one, now())).collect();
        sent.sort_by_key(|packet| (packet[HEADER..].iter().map(|b| u64::from(*b)).sum::<u64>() ^ seed) % 1009);
        let mut received: Vec<_> = sent.iter().filter_map(|packet| open(&mut opener, packet, now()).unwrap()).collect();
        let mut expected = envelopes;
        received.sort();
        expected.sort();
        prop_assert_eq!(received, expected);
    }
}
