//! What goes through the RTMP relay comes out as it went in.

/// What was recorded behind the handshake.
macro_rules! fixture {
    ($name:literal) => {
        &include_bytes!(concat!("../../fixtures/rtmp/", $name, ".bin"))[3073..]
    };
}

use std::time::Duration;

use srs_proxy::{
    codec::rtmp::{
        amf0::Value,
        chunk::{Action, Inspect, Interest, Scanner},
        edits::Edits,
        handshake,
        message::{Header, kind},
    },
    config::RealIp,
};
use srs_proxy_test_support::scripted::{LIMIT, Node, Peer, audio, client_handshake, origin_handshake, video, within};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

async fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// A node with one origin, which the test plays.
async fn node_and_origin() -> (Node, TcpListener) {
    let (node, listener) = (Node::start().await, listen().await);
    node.register("origin", listener.local_addr().unwrap(), "").await;
    (node, listener)
}

#[derive(Default)]
struct Messages(Vec<(Header, Vec<u8>)>);

impl Inspect for Messages {
    fn interest(&self, _: &Header) -> Interest {
        Interest::Whole
    }

    fn whole(&mut self, header: &Header, payload: &mut [u8]) -> Action {
        self.0.push((*header, payload.to_vec()));
        Action::Drop
    }
}

fn decode(bytes: &[u8]) -> Vec<(Header, Vec<u8>)> {
    let mut messages = Messages::default();
    Scanner::transparent().scan(&mut bytes.to_vec(), &mut Edits::default(), &mut messages).unwrap();
    messages.0
}

/// What a client must not be told again: it heard our own.
fn is_swallowed((header, payload): &(Header, Vec<u8>)) -> bool {
    let answer = [&b"\x02\0\x07_result"[..], b"\x02\0\x08onBWDone"].iter().any(|name| payload.starts_with(name));
    matches!(header.kind, kind::SET_CHUNK_SIZE | kind::SET_PEER_BANDWIDTH | kind::WINDOW_ACK_SIZE) || answer
}

/// Plays a recorded session through the relay: the client's bytes in pieces of `piece`, the origin's
/// as it was asked. Checks both directions.
async fn replay(c2s: &'static [u8], s2c: &'static [u8], piece: usize) {
    let (node, listener) = node_and_origin().await;
    let origin = tokio::spawn(async move {
        let mut stream = origin_handshake(&listener).await;
        stream.write_all(s2c).await.unwrap();
        let mut got = vec![0; c2s.len()];
        within(stream.read_exact(&mut got)).await.unwrap();
        (stream, got)
    });

    let client = client_handshake(node.address).await;
    let (mut from_proxy, mut to_proxy) = client.into_split();
    let writing = tokio::spawn(async move {
        for part in c2s.chunks(piece) {
            to_proxy.write_all(part).await.unwrap();
        }
        to_proxy
    });

    let expected: Vec<_> = decode(s2c).into_iter().filter(|m| !is_swallowed(m)).collect();
    let (mut bytes, mut got) = (Vec::new(), Vec::new());
    while got.len() < expected.len() {
        let mut read = vec![0; 65_536];
        let n = within(from_proxy.read(&mut read)).await.unwrap();
        assert!(n > 0, "closed after {} of {} messages", got.len(), expected.len());
        bytes.extend_from_slice(&read[..n]);
        got = decode(&bytes).into_iter().filter(|m| !is_swallowed(m)).collect();
    }
    assert!(got.iter().zip(&expected).all(|(a, b)| a == b), "a message has changed");

    // Media is not only the same messages: it is the same bytes.
    if let Some(media) = expected.iter().find(|(h, _)| h.kind == kind::DATA_AMF0) {
        let start = s2c.windows(media.1.len()).position(|w| w == media.1).unwrap();
        let end = &s2c[start..s2c.len() - 4096];
        assert!(bytes.windows(end.len()).any(|w| w == end), "the bytes of the media have changed");
    }
    let (_stream, got) = within(origin).await.unwrap();
    assert_eq!(got, c2s, "the origin sees the client's own bytes");
    writing.await.unwrap();
}

macro_rules! replays {
    ($($name:ident: $client:literal, $server:literal;)*) => {$(
        mod $name {
            #[tokio::test]
            async fn passes_through_unchanged() {
                super::replay(fixture!($client), fixture!($server), usize::MAX).await;
            }

            #[tokio::test]
            async fn passes_through_unchanged_in_odd_pieces() {
                super::replay(fixture!($client), fixture!($server), 337).await;
            }
        }
    )*};
}

replays! {
    ffmpeg_publishing: "ffmpeg-publish.c2s", "ffmpeg-publish.s2c";
    ffmpeg_playing: "ffmpeg-play.c2s", "ffmpeg-play.s2c";
    gstreamer_publishing: "gstreamer-publish.c2s", "gstreamer-publish.s2c";
    librtmp_publishing: "librtmp-publish.c2s", "librtmp-publish.s2c";
    librtmp_playing: "librtmp-play.c2s", "librtmp-play.s2c";
    rtmpdump_playing: "rtmpdump-play.c2s", "rtmpdump-play.s2c";
}

#[tokio::test]
async fn a_client_that_writes_single_bytes_is_served() {
    replay(fixture!("ffmpeg-play.c2s"), fixture!("ffmpeg-play.s2c"), 1).await;
}

#[tokio::test]
async fn a_client_that_dribbles_its_commands_for_five_seconds_is_served() {
    let (node, listener) = node_and_origin().await;
    let origin = tokio::spawn(async move { Peer::accept_stream(&listener, 1).await });
    let mut client = client_handshake(node.address).await;
    let bytes = fixture!("ffmpeg-play.c2s");
    let pause = Duration::from_secs(5) / bytes.len() as u32;
    for byte in bytes {
        client.write_all(&[*byte]).await.unwrap();
        tokio::time::sleep(pause).await;
    }
    let (_, command) = within(origin).await.unwrap();
    assert_eq!(command.name, "play");
}

#[tokio::test]
async fn a_client_with_the_digest_handshake_is_served() {
    // The recorded C1 of rtmpdump carries a digest; the proxy must prove that it saw it.
    let (node, listener) = node_and_origin().await;
    let origin = tokio::spawn(async move { Peer::accept_started(&listener, 1).await });
    let hello = &include_bytes!("../../fixtures/rtmp/rtmpdump-play.c2s.bin")[..handshake::C0C1];
    let mut stream = TcpStream::connect(node.address).await.unwrap();
    stream.write_all(hello).await.unwrap();
    let mut answer = [0; handshake::S0S1S2];
    within(stream.read_exact(&mut answer)).await.unwrap();
    stream.write_all(handshake::acknowledge(&answer).unwrap()).await.unwrap();
    stream.write_all(fixture!("rtmpdump-play.c2s")).await.unwrap();
    let mut client = Peer::new(stream, handshake::S0S1S2);
    assert_eq!(client.expect_status().await.1, "NetStream.Play.Start");
    within(origin).await.unwrap();
}

#[tokio::test]
async fn an_origin_that_counts_its_message_streams_from_seven_is_understood() {
    let (node, listener) = node_and_origin().await;
    let origin = tokio::spawn(async move { Peer::accept_started(&listener, 7).await });
    let mut client = Peer::ask(node.address, "publish", "s").await;
    let (header, code) = client.expect_status().await;
    assert_eq!((header.stream_id, code.as_str()), (1, "NetStream.Publish.Start"));
    let mut origin = within(origin).await.unwrap();

    // Media and what names the stream in its payload, upwards.
    client.send(video(5, 1), b"frame").await;
    assert_eq!(origin.next_of(kind::VIDEO).await.0.stream_id, 7);
    client.send(Header::control(kind::USER_CONTROL), &[0, 3, 0, 0, 0, 1, 0, 0, 3, 232]).await;
    assert_eq!(origin.next_of(kind::USER_CONTROL).await.1, [0, 3, 0, 0, 0, 7, 0, 0, 3, 232]);
    client.command(0, "deleteStream", 4.0, [Value::Null, Value::Number(1.0)]).await;
    assert_eq!(origin.expect("deleteStream").await.1.values[1], Value::Number(7.0));

    // And downwards.
    origin.send(Header::control(kind::USER_CONTROL), &[0, 0, 0, 0, 0, 7]).await;
    assert_eq!(client.next_of(kind::USER_CONTROL).await.1, [0, 0, 0, 0, 0, 1]);
    origin.send(video(6, 7), b"frame").await;
    assert_eq!(client.next_of(kind::VIDEO).await.0.stream_id, 1);
}

#[tokio::test]
async fn headers_that_an_origin_compresses_across_the_hand_over_are_understood() {
    let (node, listener) = node_and_origin().await;
    let origin = tokio::spawn(async move {
        let mut origin = Peer::accept(&listener).await;
        origin.expect("connect").await;
        // Answers on chunk stream 6, so that the media there is compressed against them.
        let mut payload = Vec::new();
        for value in [Value::string("_result"), Value::Number(1.0), Value::Null, Value::Null] {
            value.encode(&mut payload);
        }
        origin.send(Header { chunk_stream: 6, timestamp: 1000, ..Header::command() }, &payload).await;
        origin.expect("createStream").await;
        let mut payload = Vec::new();
        for value in [Value::string("_result"), Value::Number(2.0), Value::Null, Value::Number(1.0)] {
            value.encode(&mut payload);
        }
        // Type 1: the stream id, 0, is that of the message before.
        let len = payload.len() as u8;
        let mut bytes = vec![0x46, 0, 0, 10, 0, 0, len, kind::COMMAND_AMF0];
        bytes.extend(&payload);
        origin.stream.write_all(&bytes).await.unwrap();
        origin.expect("play").await;
        // Video: type 1, then 2, then 3 with the delta of the one before.
        origin.stream.write_all(&[0x46, 0, 0, 20, 0, 0, 2, kind::VIDEO, b'a', b'a']).await.unwrap();
        origin.stream.write_all(&[0x86, 0, 0, 40, b'b', b'b']).await.unwrap();
        origin.stream.write_all(&[0xC6, b'c', b'c']).await.unwrap();
        origin
    });
    let mut client = Peer::ask(node.address, "play", "s").await;
    for (timestamp, payload) in [(1030, b"aa"), (1070, b"bb"), (1110, b"cc")] {
        let (header, got) = client.next_of(kind::VIDEO).await;
        assert_eq!((header.timestamp, &got[..]), (timestamp, &payload[..]));
    }
    within(origin).await.unwrap();
}

#[tokio::test]
async fn enhanced_rtmp_reaches_the_other_side_with_its_capabilities_and_its_bytes() {
    let (node, listener) = node_and_origin().await;
    let origin = tokio::spawn(async move {
        let mut origin = Peer::accept(&listener).await;
        let (_, connect) = origin.expect("connect").await;
        origin.command(0, "_result", 1.0, [Value::Null, Value::Null]).await;
        origin.expect("createStream").await;
        origin.command(0, "_result", 2.0, [Value::Null, Value::Number(1.0)]).await;
        origin.expect("publish").await;
        origin.status(1, "status", "NetStream.Publish.Start").await;
        (origin, connect)
    });
    // Enhanced RTMP v1 and v2: fourCcList as an array, capsEx, and a map per kind of media.
    let capabilities = Value::object([
        ("tcUrl", Value::string("rtmp://x/live?token=abc")),
        ("fourCcList", Value::StrictArray(["av01", "vp09", "hvc1"].map(Value::string).to_vec())),
        ("videoFourCcInfoMap", Value::object([("hvc1", Value::Number(7.0))])),
        ("capsEx", Value::Number(15.0)),
    ]);
    let mut client = Peer::connect(node.address).await;
    client.command(0, "connect", 1.0, [capabilities.clone()]).await;
    client.command(0, "createStream", 2.0, [Value::Null]).await;
    client.command(1, "publish", 3.0, [Value::Null, Value::string("s")]).await;
    client.expect_status().await;
    let (mut origin, connect) = within(origin).await.unwrap();
    assert_eq!(connect.values, [capabilities]);
    // SequenceStart, CodedFrames, CodedFramesX, Metadata, and a packet type of a later version.
    for (n, packet_type) in [0u8, 1, 3, 4, 15].into_iter().enumerate() {
        let payload = [&[0x90 | packet_type][..], b"hvc1", &[n as u8; 300]].concat();
        client.send(video(n as u32, 1), &payload).await;
        assert_eq!(origin.next_of(kind::VIDEO).await.1, payload);
    }
}

#[tokio::test]
async fn chunk_sizes_of_both_sides_may_differ_and_change() {
    let (node, listener) = node_and_origin().await;
    let origin = tokio::spawn(async move { Peer::accept_started(&listener, 1).await });
    let mut client = Peer::ask(node.address, "publish", "s").await;
    client.expect_status().await;
    let mut origin = within(origin).await.unwrap();
    let payload: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
    for (n, size) in [1u32, 128, 4096, 60_000].into_iter().enumerate() {
        client.set_chunk_size(size).await;
        client.send(video(n as u32, 1), &payload).await;
        let (header, got) = origin.next_of(kind::VIDEO).await;
        assert_eq!((header.timestamp, &got), (n as u32, &payload), "chunk size {size}");
        // Down: what the origin says in its own size is understood at once.
        origin.send(audio(n as u32, 1), &payload).await;
        assert_eq!(client.next_of(kind::AUDIO).await.1, payload, "while the origin writes {}", origin.chunk_size);
        origin.set_chunk_size(size + 1).await;
    }
}

#[tokio::test]
async fn timestamps_beyond_24_bits_arrive_as_they_were_sent() {
    let (node, listener) = node_and_origin().await;
    let origin = tokio::spawn(async move { Peer::accept_started(&listener, 5).await });
    let mut client = Peer::ask(node.address, "publish", "s").await;
    client.expect_status().await;
    let mut origin = within(origin).await.unwrap();
    for timestamp in [0x00FF_FFFE, 0x00FF_FFFF, 0x0100_0000, 0x7FFF_FFFF, 0xFFFF_FFF0] {
        client.send(video(timestamp, 1), &[9; 1000]).await;
        assert_eq!(origin.next_of(kind::VIDEO).await, (Header { length: 1000, ..video(timestamp, 5) }, vec![9; 1000]));
        origin.send(audio(timestamp, 5), &[8; 1000]).await;
        assert_eq!(client.next_of(kind::AUDIO).await, (Header { length: 1000, ..audio(timestamp, 1) }, vec![8; 1000]));
    }
}

#[tokio::test]
async fn each_side_is_acknowledged_in_its_own_window_and_hears_no_other_acknowledgement() {
    let (node, listener) = node_and_origin().await;
    let origin = tokio::spawn(async move {
        let mut origin = Peer::accept(&listener).await;
        origin.send(Header::control(kind::WINDOW_ACK_SIZE), &10_000u32.to_be_bytes()).await;
        origin.expect("connect").await;
        origin.command(0, "_result", 1.0, [Value::Null, Value::Null]).await;
        origin.expect("createStream").await;
        origin.command(0, "_result", 2.0, [Value::Null, Value::Number(1.0)]).await;
        origin.expect("publish").await;
        origin.status(1, "status", "NetStream.Publish.Start").await;
        origin
    });
    let mut client = Peer::connect(node.address).await;
    client.send(Header::control(kind::WINDOW_ACK_SIZE), &20_000u32.to_be_bytes()).await;
    let connect = Value::object([("tcUrl", Value::string("rtmp://x/live"))]);
    client.command(0, "connect", 1.0, [connect]).await;
    client.command(0, "createStream", 2.0, [Value::Null]).await;
    client.command(1, "publish", 3.0, [Value::Null, Value::string("s")]).await;
    client.expect_status().await;
    let mut origin = within(origin).await.unwrap();

    // Acknowledgements of the peers themselves end at the proxy.
    client.send(Header::control(kind::ACKNOWLEDGEMENT), &[1, 1, 1, 1]).await;
    origin.send(Header::control(kind::ACKNOWLEDGEMENT), &[2, 2, 2, 2]).await;

    client.send(video(0, 1), &vec![0; 30_000]).await;
    let (header, payload) = client.next_of(kind::ACKNOWLEDGEMENT).await;
    let sequence = u32::from_be_bytes(payload.try_into().unwrap());
    assert!((10_000..40_000).contains(&sequence), "{header:?}: {sequence}");

    origin.send(audio(0, 1), &[0; 6_000]).await;
    loop {
        let (header, payload) = origin.next().await;
        if header.kind == kind::ACKNOWLEDGEMENT {
            let sequence = u32::from_be_bytes(payload.try_into().unwrap());
            assert!((5_000..20_000).contains(&sequence), "{sequence}");
            break;
        }
    }
}

#[tokio::test]
async fn the_real_address_goes_to_srs_only_unless_told_otherwise() {
    for (real_ip, software, expected) in [
        (RealIp::Auto, "SRS/7.0.18(Hang)", true),
        (RealIp::Auto, "nginx", false),
        (RealIp::On, "", true),
        (RealIp::Off, "SRS/7.0.18(Hang)", false),
    ] {
        let (node, listener) = (Node::with(|rtmp, _| rtmp.real_ip = real_ip).await, listen().await);
        node.register("origin", listener.local_addr().unwrap(), software).await;
        let origin = tokio::spawn(async move {
            let (mut stream, _) = within(listener.accept()).await.unwrap();
            let mut first = [0; 8];
            within(stream.read_exact(&mut first)).await.unwrap();
            first
        });
        let _client = Peer::ask(node.address, "play", "s").await;
        let first = within(origin).await.unwrap();
        if expected {
            assert_eq!(first, [0xF3, 0, 4, 127, 0, 0, 1, 3], "{real_ip:?} {software}");
        } else {
            assert_eq!(first[0], 3, "{real_ip:?} {software}");
        }
    }
}

#[tokio::test]
async fn what_a_client_sends_right_behind_publish_is_not_lost() {
    let (node, listener) = node_and_origin().await;
    let origin = tokio::spawn(async move { Peer::accept_started(&listener, 9).await });
    let mut client = Peer::connect(node.address).await;
    // All in one write, and the last message cut inside its header.
    let mut bytes = Vec::new();
    let mut message = |header: Header, values: &[Value]| {
        let mut payload = Vec::new();
        values.iter().for_each(|v| v.encode(&mut payload));
        header.encode_message(&payload, 128, &mut bytes);
    };
    let connect = Value::object([("tcUrl", Value::string("rtmp://x/live"))]);
    message(Header::command(), &[Value::string("connect"), Value::Number(1.0), connect]);
    message(Header::command(), &[Value::string("createStream"), Value::Number(2.0), Value::Null]);
    let publish = [Value::string("publish"), Value::Number(3.0), Value::Null, Value::string("s")];
    message(Header::status(1), &publish);
    let mut media = Vec::new();
    video(1, 1).encode_message(&[1; 500], 128, &mut media);
    video(2, 1).encode_message(&[2; 500], 128, &mut media);
    let cut = media.len() / 2 + 5;
    bytes.extend(&media[..cut]);
    client.stream.write_all(&bytes).await.unwrap();
    client.expect_status().await;
    client.stream.write_all(&media[cut..]).await.unwrap();
    let mut origin = within(origin).await.unwrap();
    for n in [1, 2] {
        assert_eq!(origin.next_of(kind::VIDEO).await, (Header { length: 500, ..video(n, 9) }, vec![n as u8; 500]));
    }
}

#[tokio::test]
async fn a_slow_player_gets_every_byte() {
    let (node, listener) = node_and_origin().await;
    let origin = tokio::spawn(async move { Peer::accept_started(&listener, 1).await });
    let mut client = Peer::ask(node.address, "play", "s").await;
    client.expect_status().await;
    let mut origin = within(origin).await.unwrap();
    let sending = tokio::spawn(async move {
        for n in 0..400u32 {
            origin.send(video(n, 1), &vec![n as u8; 50_000]).await;
        }
        origin
    });
    // More than all socket buffers hold, read only once the sender has had to wait.
    tokio::time::timeout(Duration::from_millis(300), async {
        while !sending.is_finished() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect_err("the sender is held back");
    for n in 0..400u32 {
        let (header, payload) = client.next_of(kind::VIDEO).await;
        assert_eq!((header.timestamp, payload.len(), payload[0]), (n, 50_000, n as u8));
    }
    tokio::time::timeout(LIMIT, sending).await.unwrap().unwrap();
}
