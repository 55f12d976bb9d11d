//! Any bytes, in any pieces, seen by an inspector that wants everything at some time: no panic, no
//! unbounded memory, and the same messages whatever the pieces.

#![no_main]

use libfuzzer_sys::fuzz_target;
use srs_proxy::codec::rtmp::{
    chunk::{Action, Inspect, Interest, MAX_HELD, Scanner},
    edits::Edits,
    headers::CodecHeaders,
    message::Header,
};

#[derive(Default)]
struct Inspector {
    headers: CodecHeaders,
    messages: Vec<(Header, Vec<u8>)>,
}

impl Inspect for Inspector {
    fn interest(&self, header: &Header) -> Interest {
        match header.kind % 4 {
            0 => Interest::Whole,
            1 => Interest::Tap,
            _ => Interest::Pass,
        }
    }

    fn tap(&mut self, header: &Header, offset: usize, bytes: &[u8]) -> bool {
        self.headers.tap(header, offset, bytes)
    }

    fn whole(&mut self, header: &Header, payload: &mut [u8]) -> Action {
        self.messages.push((*header, payload.to_vec()));
        if header.length % 3 == 0 { Action::Drop } else { Action::Pass }
    }

    fn map_stream_id(&self, id: u32) -> u32 {
        if id == 1 { 5 } else { id }
    }
}

fn run(bytes: &[u8], piece: usize, joining: bool) -> (Vec<u8>, Inspector) {
    let mut scanner = if joining { Scanner::joining() } else { Scanner::transparent() };
    let (mut inspector, mut edits) = (Inspector::default(), Edits::default());
    let (mut held, mut out) = (Vec::new(), Vec::new());
    for part in bytes.chunks(piece) {
        held.extend_from_slice(part);
        let Ok(scan) = scanner.scan(&mut held, &mut edits, &mut inspector) else { break };
        edits.apply(&held[..scan.consumed], &mut out);
        edits.clear();
        held.drain(..scan.consumed);
        assert!(held.len() <= MAX_HELD + 18, "more is held back than one message");
    }
    (out, inspector)
}

fuzz_target!(|input: (u8, bool, &[u8])| {
    let (piece, joining, bytes) = input;
    let (_, whole) = run(bytes, bytes.len().max(1), joining);
    let (_, pieces) = run(bytes, usize::from(piece).max(1), joining);
    // An error ends both at the same message; the whole run may see none of those before it.
    let common = whole.messages.len().min(pieces.messages.len());
    assert_eq!(whole.messages[..common], pieces.messages[..common]);
});
