//! What the codecs cost on their own.

use std::{fmt::Write, hint::black_box};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use srs_proxy::{
    codec::{
        m3u8,
        rtmp::{
            chunk::{Action, Inspect, Interest, Scanner},
            command::Command,
            edits::Edits,
            handshake::{self, C0C1, Form},
            headers::CodecHeaders,
            message::{self, Header, kind},
        },
    },
    stream::{StreamKey, Vhosts},
};

/// Media for the scanner, in bytes; and what a relay reads at the most at once.
const MEDIA: usize = 1024 * 1024;
const READ: usize = 64 * 1024;
/// Payloads of video and audio messages of a stream of 2.6 Mbit/s, in bytes.
const VIDEO: usize = 9000;
const AUDIO: usize = 340;

const FFMPEG: &[u8] = include_bytes!("../tests/fixtures/rtmp/ffmpeg-publish.c2s.bin");
const GSTREAMER: &[u8] = include_bytes!("../tests/fixtures/rtmp/gstreamer-publish.c2s.bin");
const LIBRTMP: &[u8] = include_bytes!("../tests/fixtures/rtmp/librtmp-publish.c2s.bin");
const RTMPDUMP: &[u8] = include_bytes!("../tests/fixtures/rtmp/rtmpdump-play.c2s.bin");

/// Looks at what a relay looks at while media flows.
#[derive(Default)]
struct Relay(CodecHeaders);

impl Inspect for Relay {
    fn interest(&self, header: &Header) -> Interest {
        if CodecHeaders::wants(header) { Interest::Tap } else { Interest::Pass }
    }

    fn tap(&mut self, header: &Header, offset: usize, bytes: &[u8]) -> bool {
        self.0.tap(header, offset, bytes)
    }

    fn whole(&mut self, _: &Header, _: &mut [u8]) -> Action {
        Action::Pass
    }
}

/// Keeps the first command.
#[derive(Default)]
struct FirstCommand(Option<(u8, Vec<u8>)>);

impl Inspect for FirstCommand {
    fn interest(&self, header: &Header) -> Interest {
        if header.is_command() { Interest::Whole } else { Interest::Pass }
    }

    fn whole(&mut self, header: &Header, payload: &mut [u8]) -> Action {
        self.0 = Some((header.kind, payload.to_vec()));
        Action::DropAndStop
    }
}

/// A stream in chunks of `chunk_size`, which it says first.
fn media(chunk_size: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(MEDIA + READ);
    message::set_chunk_size(chunk_size, &mut out);
    let (video, audio) = ([0x27; VIDEO], [0xAF; AUDIO]);
    let mut timestamp = 0;
    while out.len() < MEDIA {
        let header = Header { chunk_stream: 4, timestamp, length: 0, kind: kind::VIDEO, stream_id: 1 };
        header.encode_message(&video, chunk_size, &mut out);
        Header { kind: kind::AUDIO, ..header }.encode_message(&audio, chunk_size, &mut out);
        timestamp += 33;
    }
    out
}

/// Scans `bytes` in reads of [`READ`]; gives the messages that were seen.
fn scan(bytes: &mut [u8], edits: &mut Edits) -> Option<u64> {
    let mut scanner = Scanner::transparent();
    let mut relay = Relay::default();
    let mut at = 0;
    while at < bytes.len() {
        let end = bytes.len().min(at + READ);
        let scan = scanner.scan(&mut bytes[at..end], edits, &mut relay).ok()?;
        if scan.consumed == 0 {
            break;
        }
        at += scan.consumed;
    }
    Some(scanner.messages())
}

fn scanner(c: &mut Criterion) {
    let mut group = c.benchmark_group("scanner");
    for chunk_size in [128, 4096, 60_000] {
        let mut bytes = media(chunk_size);
        let mut edits = Edits::default();
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(BenchmarkId::new("chunk size", chunk_size), |b| {
            b.iter(|| scan(black_box(&mut bytes), &mut edits));
        });
    }
    group.finish();
}

fn commands(c: &mut Criterion) {
    let mut first = FirstCommand::default();
    let mut bytes = FFMPEG[C0C1 + handshake::BLOCK..].to_vec();
    let scanned = Scanner::transparent().scan(&mut bytes, &mut Edits::default(), &mut first);
    if let (Ok(_), Some((command_kind, payload))) = (scanned, first.0) {
        c.bench_function("connect of ffmpeg", |b| b.iter(|| Command::parse(command_kind, black_box(&payload))));
    }
}

fn handshakes(c: &mut Criterion) {
    let mut group = c.benchmark_group("handshake answer");
    for (form, name) in [(Form::Simple, "simple"), (Form::Digest, "digest")] {
        let hello = [FFMPEG, GSTREAMER, LIBRTMP, RTMPDUMP].into_iter().find_map(|client| {
            let hello = client.first_chunk::<C0C1>()?;
            (handshake::answer(hello, 0, |_| {}).ok()?.1 == form).then_some(hello)
        });
        if let Some(hello) = hello {
            group.bench_function(name, |b| {
                b.iter(|| handshake::answer(black_box(hello), 0, |bytes| rand::fill(bytes)));
            });
        }
    }
    group.finish();
}

fn stream_keys(c: &mut Criterion) {
    let (vhosts, url) = (Vhosts::any(), "rtmp://media.example.com:1935/live?token=0123456789abcdef");
    c.bench_function("stream key of RTMP", |b| {
        b.iter(|| StreamKey::from_rtmp(black_box(url), "live", black_box("camera?vhost=a.example"), &vhosts));
    });
}

/// A media playlist of 200 lines, with what SRS adds to its URIs.
fn playlists(c: &mut Criterion) {
    let mut playlist = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:4\n#EXT-X-MAP:URI=\"init.mp4\"\n".to_owned();
    for n in 0..98 {
        let _ = write!(playlist, "#EXTINF:4.000, no desc\nlivestream-{n}.m4s?hls_ctx=2ii0ln9h\n");
    }
    let authorities = ["proxy.example:8080", "10.0.0.7:8080"];
    let here = m3u8::Context { name: "spstream", value: "__defaultVhost__/live/livestream", authorities: &authorities };
    let mut out = Vec::new();
    let mut group = c.benchmark_group("playlist");
    group.throughput(Throughput::Bytes(playlist.len() as u64));
    group.bench_function("200 lines", |b| {
        b.iter(|| {
            out.clear();
            m3u8::rewrite(black_box(playlist.as_bytes()), &here, &mut out)
        });
    });
    group.finish();
}

criterion_group!(benches, scanner, commands, handshakes, stream_keys, playlists);
criterion_main!(benches);
