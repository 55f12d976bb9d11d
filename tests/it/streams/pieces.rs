//! HLS and DASH over HTTP: what is fetched piece by piece, whose playlists are rewritten.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use flate2::{Compression, write::GzEncoder};
use srs_proxy_test_support::http_node::{Node, Origin, answer, chunk, refusing, text};
use srs_proxy_test_support::raw_http::Answer;

const PLAYLIST: &str = "/live/stream.m3u8";
const SEGMENT: &str = "/live/stream-0.ts?spstream=__defaultVhost__/live/stream";
const STREAM: &str = "__defaultVhost__/live/stream";
const M3U8: &str = "Content-Type: application/vnd.apple.mpegurl\r\n";
const MEDIA: &str = "#EXTM3U\n#EXTINF:4,\nstream-0.ts\n";
const REWRITTEN: &str = "#EXTM3U\n#EXTINF:4,\nstream-0.ts?spstream=__defaultVhost__/live/stream\n";

/// Asks for a path, with further header lines; the origin answers with these bytes.
async fn ask(node: &Node, origin: &Origin, path: &str, headers: &str, bytes: impl AsRef<[u8]>) -> Answer {
    let mut client = node.asking(path, headers).await;
    let (mut leg, _) = origin.request().await;
    leg.send(bytes).await;
    client.answer().await
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

#[tokio::test]
async fn a_playlist_is_rewritten_and_nothing_else_of_it_changes() {
    for (playlist, expected) in [
        (MEDIA, REWRITTEN),
        (
            "#EXTM3U\r\n#EXT-X-KEY:METHOD=AES-128,URI=\"k.key\",IV=0x1\r\n#EXTINF:4, a \"title\"\r\nstream-0.ts?hls_ctx=a\r\n",
            "#EXTM3U\r\n#EXT-X-KEY:METHOD=AES-128,URI=\"k.key?spstream=__defaultVhost__/live/stream\",IV=0x1\r\n\
             #EXTINF:4, a \"title\"\r\nstream-0.ts?hls_ctx=a&spstream=__defaultVhost__/live/stream\r\n",
        ),
        (
            "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nhttp://test/live/stream.m3u8?hls_ctx=a\nhttp://cdn.example/x.m3u8",
            "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n\
             /live/stream.m3u8?hls_ctx=a&spstream=__defaultVhost__/live/stream\nhttp://cdn.example/x.m3u8",
        ),
    ] {
        let (node, origin) = Node::with_origin().await;
        let own = format!("{M3U8}ETag: \"1\"\r\nCache-Control: no-cache\r\nAccept-Ranges: bytes\r\nServer: SRS\r\n");
        let answer = ask(&node, &origin, PLAYLIST, "", answer("200 OK", &own, playlist)).await;
        assert_eq!(answer.status, 200);
        assert_eq!(text(&answer), expected);
        for (name, value) in [
            ("content-type", "application/vnd.apple.mpegurl"),
            ("etag", "\"1\""),
            ("cache-control", "no-cache"),
            ("server", "SRS"),
            ("access-control-allow-origin", "*"),
        ] {
            assert_eq!(answer.header(name), Some(value));
        }
        assert_eq!(answer.header("accept-ranges"), None);
    }
}

#[tokio::test]
async fn a_playlist_is_known_by_its_name_or_by_its_type() {
    for (path, headers) in [
        (PLAYLIST, "Content-Type: text/plain\r\n"),
        (PLAYLIST, ""),
        (SEGMENT, "Content-Type: application/x-mpegURL; charset=utf-8\r\n"),
        (SEGMENT, "Content-Type: audio/mpegurl\r\n"),
    ] {
        let (node, origin) = Node::with_origin().await;
        let answer = ask(&node, &origin, path, "", answer("200 OK", headers, MEDIA)).await;
        assert_eq!((answer.status, text(&answer)), (200, REWRITTEN), "{path} {headers:?}");
    }
    let (node, origin) = Node::with_origin().await;
    let answer = ask(&node, &origin, PLAYLIST, "", answer("404 Not Found", M3U8, "none")).await;
    assert_eq!((answer.status, text(&answer)), (404, "none"));
}

#[tokio::test]
async fn a_playlist_may_come_packed_chunked_or_to_the_end_of_the_connection() {
    let packed = gzip(MEDIA.as_bytes());
    let chunked = [chunk(&MEDIA.as_bytes()[..9]), chunk(&MEDIA.as_bytes()[9..]), b"0\r\n\r\n".to_vec()].concat();
    let head = |more: &str| format!("HTTP/1.1 200 OK\r\n{M3U8}{more}\r\n").into_bytes();
    for bytes in [
        answer("200 OK", &format!("{M3U8}Content-Encoding: gzip\r\nVary: Accept-Encoding\r\n"), &packed),
        [head("Transfer-Encoding: chunked\r\n"), chunked].concat(),
        [head("Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n"), chunk(&packed), b"0\r\n\r\n".to_vec()]
            .concat(),
    ] {
        let (node, origin) = Node::with_origin().await;
        let answer = ask(&node, &origin, PLAYLIST, "Accept-Encoding: br, deflate\r\n", bytes).await;
        assert_eq!((answer.status, text(&answer)), (200, REWRITTEN));
        assert_eq!(answer.header("content-encoding"), None);
        assert_eq!(answer.header("content-length"), Some(REWRITTEN.len().to_string().as_str()));
    }
    let (node, origin) = Node::with_origin().await;
    let mut client = node.asking(PLAYLIST, "").await;
    let (mut leg, request) = origin.request().await;
    assert_eq!(request.header("accept-encoding"), Some("gzip"));
    leg.send([head("Connection: close\r\n"), MEDIA.into()].concat()).await;
    drop(leg);
    assert_eq!(text(&client.answer().await), REWRITTEN);
}

#[tokio::test]
async fn what_is_called_a_playlist_and_is_none_that_can_be_passed_on_is_a_bad_gateway() {
    let long = format!("#EXTM3U\n{}", "#\n".repeat(512 * 1024));
    let brotli = format!("{M3U8}Content-Encoding: br\r\n");
    let zipped = format!("{M3U8}Content-Encoding: gzip\r\n");
    for (what, bytes) in [
        ("longer than 1048576 bytes", answer("200 OK", M3U8, &long)),
        ("longer than 1048576 bytes", answer("200 OK", &zipped, gzip(long.as_bytes()))),
        ("not UTF-8", answer("200 OK", M3U8, b"#EXTM3U\n\xff\xfe.ts\n")),
        ("no playlist", answer("200 OK", M3U8, "<html>")),
        ("no playlist", answer("200 OK", M3U8, "")),
        ("encoded as br", answer("200 OK", &brotli, "x")),
        ("gzip is broken", answer("200 OK", &zipped, MEDIA)),
    ] {
        let (node, origin) = Node::with_origin().await;
        let answer = ask(&node, &origin, PLAYLIST, "", bytes).await;
        assert_eq!(answer.status, 502, "{what}: {answer:?}");
        assert!(answer.error().contains(what), "{what}: {}", answer.error());
        assert_eq!(answer.json()["stream"], STREAM);
        assert_eq!(answer.header("etag"), None);
    }
}

#[tokio::test]
async fn a_playlist_that_breaks_off_is_a_bad_gateway() {
    let (node, origin) = Node::with_origin().await;
    let mut client = node.asking(PLAYLIST, "").await;
    let (mut leg, _) = origin.request().await;
    leg.send(format!("HTTP/1.1 200 OK\r\n{M3U8}Content-Length: 1000\r\n\r\n{MEDIA}")).await;
    drop(leg);
    let answer = client.answer().await;
    assert_eq!((answer.status, &answer.json()["stream"]), (502, &STREAM.into()));
}

#[tokio::test]
async fn the_head_of_a_playlist_has_no_length_that_would_be_wrong() {
    let (node, origin) = Node::with_origin().await;
    let mut client = node.client().await;
    client.send(format!("HEAD {PLAYLIST} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
    let (mut leg, request) = origin.request().await;
    assert!(request.line.starts_with("HEAD "));
    leg.send(format!("HTTP/1.1 200 OK\r\n{M3U8}Content-Length: 31\r\n\r\n")).await;
    let head = client.head().await.unwrap();
    assert_eq!((head.status, head.header("content-length")), (200, None));
    client.send("OPTIONS / HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 204);
}

#[tokio::test]
async fn conditions_and_ranges_pass_where_they_mean_the_same_for_client_and_origin() {
    let (node, origin) = Node::with_origin().await;
    // The playlist is another text: no part of it is where it was, but its tag still tells versions apart.
    let mut client = node.asking(PLAYLIST, "If-None-Match: \"1\"\r\nRange: bytes=0-5\r\nIf-Range: \"1\"\r\n").await;
    let (mut leg, request) = origin.request().await;
    assert_eq!(request.header("if-none-match"), Some("\"1\""));
    assert_eq!((request.header("range"), request.header("if-range")), (None, None));
    leg.send("HTTP/1.1 304 Not Modified\r\nETag: \"1\"\r\n\r\n").await;
    let unchanged = client.answer().await;
    assert_eq!((unchanged.status, unchanged.header("etag")), (304, Some("\"1\"")));

    client.send(format!("GET {SEGMENT} HTTP/1.1\r\nHost: test\r\nRange: bytes=2-4\r\nIf-Range: \"2\"\r\n\r\n")).await;
    let request = leg.request().await.unwrap();
    assert_eq!((request.header("range"), request.header("if-range")), (Some("bytes=2-4"), Some("\"2\"")));
    leg.send(answer("206 Partial Content", "Content-Type: video/mp2t\r\nContent-Range: bytes 2-4/9\r\n", "cde")).await;
    let part = client.answer().await;
    assert_eq!((part.status, part.header("content-range")), (206, Some("bytes 2-4/9")));
    assert_eq!(part.body, b"cde");

    client.send(format!("GET {SEGMENT} HTTP/1.1\r\nHost: test\r\nIf-Modified-Since: then\r\n\r\n")).await;
    assert_eq!(leg.request().await.unwrap().header("if-modified-since"), Some("then"));
    leg.send("HTTP/1.1 304 Not Modified\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 304);
}

#[tokio::test]
async fn what_names_the_stream_for_this_proxy_is_no_business_of_the_origin() {
    for (asked, got) in [
        ("/live/stream-0.ts?spstream=__defaultVhost__/live/stream", "/live/stream-0.ts"),
        (
            "/live/stream-0.ts?token=a%2Fb&spstream=__defaultVhost__%2flive/stream&x=",
            "/live/stream-0.ts?token=a%2Fb&x=",
        ),
        ("/any/where/key.bin?spstream=__defaultVhost__/live/stream", "/any/where/key.bin"),
        ("/live/stream/video-3.m4s?token=1", "/live/stream/video-3.m4s?token=1"),
        ("/live/stream-init.m4v", "/live/stream-init.m4v"),
    ] {
        let (node, origin) = Node::with_origin().await;
        let mut client = node.asking(asked, "").await;
        let (mut leg, request) = origin.request().await;
        assert_eq!(request.target(), got);
        leg.send(answer("200 OK", "", "piece")).await;
        assert_eq!(client.answer().await.body, b"piece");
    }
}

#[tokio::test]
async fn a_manifest_passes_as_it_is() {
    let manifest = include_str!("../../fixtures/srs/dash.http")
        .split_once("\r\n\r\n")
        .map_or_else(|| include_str!("../../fixtures/srs/dash.http").split_once("\n\n").unwrap().1, |(_, body)| body);
    let (node, origin) = Node::with_origin().await;
    let bytes = answer("200 OK", "Content-Type: application/dash+xml\r\n", manifest);
    let answer = ask(&node, &origin, "/live/livestream.mpd", "", bytes).await;
    assert_eq!((answer.status, text(&answer)), (200, manifest));
}

#[tokio::test]
async fn many_segments_take_one_connection_to_the_origin() {
    let node = Node::start().await;
    let origin = Origin::start().await;
    node.register(&origin).await;
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let _serving = origin.serve(move |request, so_far| {
        counted.store(so_far, SeqCst);
        if request.target() == PLAYLIST {
            answer("200 OK", M3U8, MEDIA)
        } else {
            answer("200 OK", "Content-Type: video/mp2t\r\n", request.target())
        }
    });
    let mut client = node.client().await;
    for n in 0..50 {
        assert_eq!(text(&client.get(PLAYLIST).await), REWRITTEN);
        let answer = client.get(&format!("/live/stream-{n}.ts?spstream=__defaultVhost__/live/stream")).await;
        assert_eq!(text(&answer), format!("/live/stream-{n}.ts"));
    }
    assert_eq!(connections.load(SeqCst), 1);
}

#[tokio::test]
async fn an_origin_that_closes_a_kept_connection_costs_no_request() {
    let (node, origin) = Node::with_origin().await;
    let mut client = node.client().await;
    for n in 0..10 {
        client.send(format!("GET {SEGMENT} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        let (mut leg, _) = origin.request().await;
        leg.send(answer("200 OK", "", n.to_string())).await;
        assert_eq!(text(&client.answer().await), n.to_string());
        // At once, or when the next request is on its way.
        if n % 2 == 1 {
            client.send(format!("GET {SEGMENT} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
            leg.request().await.unwrap();
            drop(leg);
            let (mut leg, _) = origin.request().await;
            leg.send(answer("200 OK", "Connection: close\r\n", "again")).await;
            assert_eq!(text(&client.answer().await), "again");
        }
    }
}

#[tokio::test]
async fn a_stream_that_is_fetched_in_pieces_follows_when_its_origin_dies() {
    let node = Node::with(|http, _| http.stream_idle = Duration::from_secs(60)).await;
    let origins = [Origin::start().await, Origin::start().await];
    node.register(&origins[0]).await;
    let mut client = node.client().await;
    client.send(format!("GET {SEGMENT} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
    let (mut leg, _) = origins[0].request().await;
    leg.send(answer("200 OK", "", "old")).await;
    assert_eq!(text(&client.answer().await), "old");

    let [old, new] = origins;
    node.register(&new).await;
    drop((leg, old));
    for _ in 0..2 {
        client.send(format!("GET {SEGMENT} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        let (mut leg, _) = new.request().await;
        leg.send(answer("200 OK", "Connection: close\r\n", "new")).await;
        assert_eq!(text(&client.answer().await), "new");
    }
}

#[tokio::test]
async fn a_segment_that_breaks_off_is_not_made_to_look_whole() {
    let (node, origin) = Node::with_origin().await;
    let mut client = node.asking(SEGMENT, "").await;
    let (mut leg, _) = origin.request().await;
    leg.send("HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\npart").await;
    let head = client.head().await.unwrap();
    assert_eq!(head.header("content-length"), Some("1000"));
    assert_eq!(client.bytes(4).await, b"part");
    drop(leg);
    assert_eq!(client.until_closed().await, b"");
}

#[tokio::test]
async fn the_origins_404_is_remembered_by_nobody() {
    let (node, origin) = Node::with_origin().await;
    let (_socket, gone) = refusing();
    let mut client = node.client().await;
    for status in ["404 Not Found", "200 OK", "404 Not Found"] {
        client.send(format!("GET {PLAYLIST} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        let (mut leg, _) = origin.request().await;
        leg.send(answer(status, &format!("{M3U8}Connection: close\r\n"), MEDIA)).await;
        assert_eq!(client.answer().await.status.to_string(), status[..3]);
        node.register_address(gone).await;
    }
}

#[tokio::test]
async fn a_file_is_served_where_no_stream_is_and_never_in_place_of_one() {
    let site = tempfile::tempdir().unwrap();
    std::fs::create_dir(site.path().join("live")).unwrap();
    std::fs::write(site.path().join("index.html"), "a player").unwrap();
    std::fs::write(site.path().join("live/stream.mp3"), "a jingle").unwrap();
    let path = site.path().to_owned();
    let node = Node::with(|http, _| http.static_files = Some(path)).await;
    let mut client = node.client().await;
    assert_eq!(text(&client.get("/").await), "a player");
    assert_eq!(text(&client.get("/live/stream.mp3").await), "a jingle");
    assert_eq!(client.get("/live/stream.aac").await.status, 503);

    let origin = Origin::start().await;
    node.register(&origin).await;
    for (status, expected) in [("404 Not Found", "a jingle"), ("200 OK", "live")] {
        let mut client = node.asking("/live/stream.mp3", "").await;
        let (mut leg, _) = origin.request().await;
        leg.send(answer(status, "", "live")).await;
        assert_eq!(text(&client.answer().await), expected);
    }
}
