use proptest::prelude::*;

use super::*;
use crate::codec::rtmp::{
    edits::Edits,
    handshake::{C0C1, S0S1S2},
    message::{EXTENDED_TIMESTAMP, kind},
};

const BLOCK: usize = S0S1S2 - C0C1;

macro_rules! fixture {
    ($name:literal) => {
        ($name, &include_bytes!(concat!("../../../../tests/fixtures/rtmp/", $name, ".bin"))[C0C1 + BLOCK..])
    };
}

fn fixtures() -> [(&'static str, &'static [u8]); 16] {
    [
        fixture!("ffmpeg-play.c2s"),
        fixture!("ffmpeg-play.s2c"),
        fixture!("ffmpeg-publish-busy.c2s"),
        fixture!("ffmpeg-publish-busy.s2c"),
        fixture!("ffmpeg-publish.c2s"),
        fixture!("ffmpeg-publish.s2c"),
        fixture!("gstreamer-publish.c2s"),
        fixture!("gstreamer-publish.s2c"),
        fixture!("librtmp-play.c2s"),
        fixture!("librtmp-play.s2c"),
        fixture!("librtmp-publish.c2s"),
        fixture!("librtmp-publish.s2c"),
        fixture!("rtmpdump-play.c2s"),
        fixture!("rtmpdump-play.s2c"),
        fixture!("ffmpeg-publish.c2s"),
        fixture!("ffmpeg-play.s2c"),
    ]
}

/// Records what it sees; how much it asks for is a field.
struct Recorder {
    interest: fn(&Header) -> Interest,
    action: fn(&Header) -> Action,
    stream_ids: (u32, u32),
    seen: Vec<(Header, Vec<u8>)>,
}

impl Recorder {
    fn new(interest: fn(&Header) -> Interest) -> Self {
        Self { interest, action: |_| Action::Pass, stream_ids: (0, 0), seen: Vec::new() }
    }
}

impl Inspect for Recorder {
    fn interest(&self, header: &Header) -> Interest {
        (self.interest)(header)
    }

    fn tap(&mut self, header: &Header, offset: usize, bytes: &[u8]) -> bool {
        if offset == 0 {
            self.seen.push((*header, Vec::new()));
        }
        let (_, payload) = self
            .seen
            .iter_mut()
            .rev()
            .find(|(h, p)| h == header && p.len() == offset)
            .expect("the parts come in order");
        payload.extend_from_slice(bytes);
        true
    }

    fn whole(&mut self, header: &Header, payload: &mut [u8]) -> Action {
        self.seen.push((*header, payload.to_vec()));
        (self.action)(header)
    }

    fn map_stream_id(&self, id: u32) -> u32 {
        if id == self.stream_ids.0 { self.stream_ids.1 } else { id }
    }
}

/// Feeds `bytes` in pieces and gives what comes out; what is held back at the end is left out.
fn run(scanner: &mut Scanner, bytes: &[u8], mut piece: impl FnMut() -> usize, inspect: &mut Recorder) -> Vec<u8> {
    let mut out = Vec::new();
    let mut held = Vec::new();
    let mut edits = Edits::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (part, tail) = rest.split_at(piece().clamp(1, rest.len()));
        rest = tail;
        held.extend_from_slice(part);
        let scan = scanner.scan(&mut held, &mut edits, inspect).expect("valid chunks");
        edits.apply(&held[..scan.consumed], &mut out);
        edits.clear();
        held.drain(..scan.consumed);
    }
    out
}

/// All messages of a chunk stream.
fn decode(bytes: &[u8]) -> Vec<(Header, Vec<u8>)> {
    let mut recorder = Recorder::new(|_| Interest::Whole);
    run(&mut Scanner::transparent(), bytes, || usize::MAX, &mut recorder);
    recorder.seen
}

/// Writes messages as encoders do: compressed wherever it can be.
#[derive(Default)]
struct Encoder {
    chunk_size: u32,
    last: std::collections::HashMap<u32, (Header, Option<u32>)>,
    out: Vec<u8>,
}

impl Encoder {
    fn new() -> Self {
        Self { chunk_size: 128, ..Self::default() }
    }

    /// `compress` is the highest header type that may be used.
    fn message(&mut self, header: Header, payload: &[u8], compress: u8) {
        let header = Header { length: payload.len() as u32, ..header };
        let delta = |last: &Header| header.timestamp.wrapping_sub(last.timestamp);
        let format = match self.last.get(&header.chunk_stream) {
            Some((last, last_delta)) if last.stream_id == header.stream_id && delta(last) < EXTENDED_TIMESTAMP => {
                let same = last.length == header.length && last.kind == header.kind;
                if same && *last_delta == Some(delta(last)) {
                    3
                } else if same {
                    2
                } else {
                    1
                }
            }
            _ => 0,
        }
        .min(compress);
        let mut basic = Vec::new();
        Header { chunk_stream: header.chunk_stream, ..Header::default() }.encode_continuation(&mut basic);
        basic[0] = basic[0] & 0x3F | format << 6;
        let full_time = format == 0;
        let time = if full_time { header.timestamp } else { delta(&self.last[&header.chunk_stream].0) };
        let extended = time >= EXTENDED_TIMESTAMP;
        self.out.extend(&basic);
        if format <= 2 {
            self.out.extend(&time.min(EXTENDED_TIMESTAMP).to_be_bytes()[1..]);
        }
        if format <= 1 {
            self.out.extend(&header.length.to_be_bytes()[1..]);
            self.out.push(header.kind);
        }
        if format == 0 {
            self.out.extend(header.stream_id.to_le_bytes());
        }
        if extended && format <= 2 {
            self.out.extend(time.to_be_bytes());
        }
        for (n, part) in payload.chunks(self.chunk_size as usize).enumerate() {
            if n > 0 {
                basic[0] |= 0xC0;
                self.out.extend(&basic);
                if extended {
                    self.out.extend(time.to_be_bytes());
                }
            }
            self.out.extend(part);
        }
        // A type 3 header behind a full one is read differently by different servers: not written.
        let known_delta = (!full_time).then_some(time);
        self.last.insert(header.chunk_stream, (header, known_delta));
        if header.kind == kind::SET_CHUNK_SIZE {
            self.chunk_size = u32::from_be_bytes(payload[..4].try_into().expect("four bytes"));
        }
    }
}

fn any_message() -> impl Strategy<Value = (Header, Vec<u8>, u8)> {
    let chunk_stream = prop_oneof![Just(3u32), Just(4), Just(6), Just(70), Just(400)];
    let time_step = prop_oneof![Just(0u32), Just(40), 1..1000u32, Just(EXTENDED_TIMESTAMP + 7)];
    let message_kind =
        prop_oneof![Just(kind::AUDIO), Just(kind::VIDEO), Just(kind::DATA_AMF0), Just(kind::COMMAND_AMF0)];
    (chunk_stream, time_step, message_kind, 0..400usize, 0..4u8, prop_oneof![Just(0u32), Just(1)]).prop_map(
        |(chunk_stream, timestamp, kind, length, compress, stream_id)| {
            let header = Header { chunk_stream, timestamp, length: length as u32, kind, stream_id };
            (header, (0..length).map(|n| n as u8).collect(), compress)
        },
    )
}

/// Some messages as bytes, and what they are. Set Chunk Size messages are mixed in.
fn any_stream(sizes: std::ops::Range<u32>) -> impl Strategy<Value = (Vec<u8>, Vec<(Header, Vec<u8>)>)> {
    let sizes = proptest::collection::vec((any::<prop::sample::Index>(), sizes), 0..3);
    (proptest::collection::vec(any_message(), 1..30), sizes).prop_map(|(messages, sizes)| {
        let mut encoder = Encoder::new();
        let mut expected = Vec::new();
        let mut clock = std::collections::HashMap::new();
        for (n, (mut header, payload, compress)) in messages.iter().cloned().enumerate() {
            for (_, size) in sizes.iter().filter(|(at, _)| at.index(messages.len()) == n) {
                let control = Header { length: 4, ..Header::control(kind::SET_CHUNK_SIZE) };
                encoder.message(control, &size.to_be_bytes(), 3);
                expected.push((control, size.to_be_bytes().to_vec()));
            }
            let time: &mut u32 = clock.entry(header.chunk_stream).or_default();
            *time = time.wrapping_add(header.timestamp);
            header.timestamp = *time;
            encoder.message(header, &payload, compress);
            expected.push((header, payload));
        }
        (encoder.out, expected)
    })
}

#[test]
fn every_fixture_comes_out_as_it_went_in_whole_and_byte_by_byte() {
    for (name, bytes) in fixtures() {
        let pass: fn(&Header) -> Interest = |h| match h.kind {
            kind::AUDIO | kind::VIDEO => Interest::Tap,
            _ if h.length <= 128 => Interest::Whole,
            _ => Interest::Pass,
        };
        let mut whole = Recorder::new(pass);
        let out = run(&mut Scanner::transparent(), bytes, || usize::MAX, &mut whole);
        assert_eq!(out, bytes[..out.len()], "{name}");
        assert!(bytes.len() - out.len() < MAX_HELD, "{name} is held back for no reason");

        let mut single = Recorder::new(pass);
        let same = run(&mut Scanner::transparent(), bytes, || 1, &mut single);
        assert_eq!(same, out, "{name} byte by byte");
        assert_eq!(single.seen, whole.seen, "{name} byte by byte");
    }
}

#[test]
fn the_fixtures_hold_the_messages_that_their_senders_meant() {
    let seen: Vec<_> = decode(fixture!("rtmpdump-play.c2s").1).iter().map(|(h, _)| (h.chunk_stream, h.kind)).collect();
    let control = |k| (2, k);
    assert_eq!(
        seen,
        [
            (3, kind::COMMAND_AMF0),
            control(kind::WINDOW_ACK_SIZE),
            control(kind::USER_CONTROL),
            (3, kind::COMMAND_AMF0),
            (3, kind::COMMAND_AMF0),
            (8, kind::COMMAND_AMF0),
            control(kind::USER_CONTROL),
        ]
    );
}

#[test]
fn every_fixture_is_understood_by_a_receiver_that_joins_late() {
    for (name, bytes) in fixtures() {
        let all = decode(bytes);
        // The connect answer, or whatever else comes first, is swallowed.
        let mut recorder = Recorder::new(|h| if h.is_command() { Interest::Whole } else { Interest::Pass });
        recorder.action = |_| Action::Drop;
        let out = run(&mut Scanner::joining(), bytes, || 77, &mut recorder);
        let expected: Vec<_> = all.into_iter().filter(|(h, _)| !h.is_command()).collect();
        assert_eq!(decode(&out), expected, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn nothing_changes_when_nothing_has_to((bytes, expected) in any_stream(4..300), piece in 1..500usize) {
        let mut recorder = Recorder::new(|_| Interest::Tap);
        let out = run(&mut Scanner::transparent(), &bytes, || piece, &mut recorder);
        prop_assert_eq!(&out, &bytes);
        prop_assert_eq!(decode(&bytes), expected);
    }

    #[test]
    fn dropped_messages_leave_the_others_as_they_were(
        (bytes, expected) in any_stream(1..300),
        piece in 1..500usize,
        joining in any::<bool>(),
    ) {
        let mut recorder = Recorder::new(|h| if h.is_command() { Interest::Whole } else { Interest::Pass });
        recorder.action = |h| if h.length % 2 == 0 { Action::Drop } else { Action::Pass };
        recorder.stream_ids = (1, 5);
        let mut scanner = if joining { Scanner::joining() } else { Scanner::transparent() };
        let out = run(&mut scanner, &bytes, || piece, &mut recorder);
        let expected: Vec<_> = expected
            .into_iter()
            .filter(|(h, _)| !h.is_command() || h.length % 2 == 1)
            .map(|(h, p)| (Header { stream_id: if h.stream_id == 1 { 5 } else { h.stream_id }, ..h }, p))
            .collect();
        prop_assert_eq!(by_chunk_stream(decode(&out)), by_chunk_stream(expected));
    }

    #[test]
    fn queued_messages_go_between_chunks_and_disturb_no_other(
        (bytes, expected) in any_stream(4..300),
        piece in 1..200usize,
        chunk_stream in prop_oneof![Just(2u32), Just(4), Just(6)],
    ) {
        let mut scanner = Scanner::transparent();
        let own = Header { kind: kind::ACKNOWLEDGEMENT, chunk_stream, ..Header::default() };
        let mut recorder = Recorder::new(|_| Interest::Pass);
        let (mut out, mut edits, mut held, mut count) = (Vec::new(), Edits::default(), Vec::new(), 0);
        for part in bytes.chunks(piece) {
            scanner.queue(own, b"ack!");
            count += 1;
            held.extend_from_slice(part);
            let scan = scanner.scan(&mut held, &mut edits, &mut recorder).unwrap();
            edits.apply(&held[..scan.consumed], &mut out);
            edits.clear();
            held.drain(..scan.consumed);
        }
        // All messages have ended, so all that is still queued goes out.
        scanner.scan(&mut [], &mut edits, &mut recorder).unwrap();
        edits.apply(&[], &mut out);
        prop_assert!(!scanner.has_queued());
        let (acks, others): (Vec<_>, Vec<_>) =
            decode(&out).into_iter().partition(|(h, _)| h.kind == kind::ACKNOWLEDGEMENT);
        prop_assert_eq!(acks.len(), count);
        prop_assert!(acks.iter().all(|(_, p)| p == b"ack!"));
        prop_assert_eq!(others, expected);
    }

    #[test]
    fn random_bytes_never_panic_and_never_hold_much(
        bytes in proptest::collection::vec(any::<u8>(), 0..4000),
        piece in 1..300usize,
    ) {
        let mut scanner = Scanner::joining();
        let mut recorder = Recorder::new(|h| if h.kind % 2 == 0 { Interest::Whole } else { Interest::Tap });
        recorder.action = |_| Action::Drop;
        let (mut held, mut edits) = (Vec::new(), Edits::default());
        for part in bytes.chunks(piece) {
            held.extend_from_slice(part);
            let Ok(scan) = scanner.scan(&mut held, &mut edits, &mut recorder) else { break };
            edits.clear();
            held.drain(..scan.consumed);
            prop_assert!(held.len() <= MAX_HELD + 18);
        }
    }
}

/// Messages that were collected come out when they are complete, so only the order within a chunk
/// stream is kept.
fn by_chunk_stream(mut messages: Vec<(Header, Vec<u8>)>) -> Vec<(Header, Vec<u8>)> {
    messages.sort_by_key(|(h, _)| h.chunk_stream);
    messages
}

fn scan_all(bytes: &[u8], interest: fn(&Header) -> Interest) -> Result<Scan, ChunkError> {
    Scanner::transparent().scan(&mut bytes.to_vec(), &mut Edits::default(), &mut Recorder::new(interest))
}

#[test]
fn a_chunk_size_of_zero_or_beyond_31_bits_is_refused() {
    for size in [0, 0x8000_0000, u32::MAX] {
        let mut bytes = Vec::new();
        Header::control(kind::SET_CHUNK_SIZE).encode_message(&size.to_be_bytes(), 128, &mut bytes);
        assert_eq!(scan_all(&bytes, |_| Interest::Pass), Err(ChunkError::ChunkSize(size)));
    }
}

#[test]
fn a_command_that_declares_16_mb_is_refused_before_its_bytes_come() {
    let mut bytes = Vec::new();
    Header { length: 0x00FF_FFFF, ..Header::command() }.encode_full(&mut bytes);
    let error = ChunkError::TooLarge { kind: kind::COMMAND_AMF0, length: 0x00FF_FFFF };
    assert_eq!(scan_all(&bytes, |_| Interest::Whole), Err(error));
    assert!(scan_all(&bytes, |_| Interest::Pass).is_ok());
}

#[test]
fn a_message_inside_another_on_the_same_chunk_stream_is_refused() {
    let mut bytes = Vec::new();
    Header { length: 300, ..Header::command() }.encode_full(&mut bytes);
    bytes.extend([0; 128]);
    Header { length: 300, ..Header::command() }.encode_full(&mut bytes);
    assert_eq!(scan_all(&bytes, |_| Interest::Pass), Err(ChunkError::Interrupted(3)));
}

#[test]
fn a_compressed_header_without_a_full_one_before_it_is_refused() {
    assert_eq!(scan_all(&[0xC3], |_| Interest::Pass), Err(ChunkError::NoHeader(3, 3)));
    assert_eq!(scan_all(&[0x83, 0, 0, 1], |_| Interest::Pass), Err(ChunkError::NoHeader(3, 2)));
}

#[test]
fn the_number_of_chunk_streams_is_bounded() {
    let mut bytes = Vec::new();
    for chunk_stream in 2..200 {
        Header { chunk_stream, kind: kind::AUDIO, ..Header::default() }.encode_message(b"", 128, &mut bytes);
    }
    assert_eq!(scan_all(&bytes, |_| Interest::Pass), Err(ChunkError::TooManyStreams));
}

#[test]
fn an_encoder_that_leaves_the_extended_timestamp_out_of_later_chunks_is_followed() {
    let header = Header { chunk_stream: 6, timestamp: 0x0123_4567, length: 200, kind: kind::VIDEO, stream_id: 1 };
    let mut bytes = Vec::new();
    header.encode_full(&mut bytes);
    bytes.extend([7; 128]);
    bytes.push(0xC6);
    bytes.extend([7; 72]);
    Header::control(kind::ACKNOWLEDGEMENT).encode_message(&[0, 0, 0, 9], 128, &mut bytes);
    let seen = decode(&bytes);
    assert_eq!(seen[0], (header, vec![7; 200]));
    assert_eq!(seen[1].1, [0, 0, 0, 9]);
}

#[test]
fn an_aborted_message_is_forgotten() {
    let mut bytes = Vec::new();
    Header { length: 300, ..Header::command() }.encode_full(&mut bytes);
    bytes.extend([0; 128]);
    Header::control(kind::ABORT).encode_message(&3u32.to_be_bytes(), 128, &mut bytes);
    Header::command().encode_message(b"next", 128, &mut bytes);
    let seen = decode(&bytes);
    assert_eq!(seen.last().map(|(_, p)| &p[..]), Some(&b"next"[..]));
}

#[test]
fn scanning_stops_behind_the_message_that_says_so() {
    let mut bytes = Vec::new();
    Header::command().encode_message(b"first", 128, &mut bytes);
    let first = bytes.len();
    Header::command().encode_message(b"second", 128, &mut bytes);
    let mut recorder = Recorder::new(|_| Interest::Whole);
    recorder.action = |_| Action::DropAndStop;
    let scan = Scanner::transparent().scan(&mut bytes, &mut Edits::default(), &mut recorder);
    assert_eq!(scan, Ok(Scan { consumed: first, stopped: true }));
}
