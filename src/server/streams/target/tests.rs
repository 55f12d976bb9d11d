use proptest::prelude::*;

use super::*;
use crate::{codec::m3u8, stream::MAX_KEY_LEN};

/// `KIND KEY` of a request as it begins: path, and query if there is one.
fn target(uri: &str) -> String {
    target_at(uri, "127.0.0.1:8080")
}

fn target_at(uri: &str, host: &str) -> String {
    let (path, query) = uri.split_once('?').map_or((uri, None), |(path, query)| (path, Some(query)));
    match Target::of(path, query, host, &Vhosts::any()) {
        Ok(Some(Target { name: Name::Key(key), kind })) => format!("{kind:?} {key}").replace(" __defaultVhost__/", " "),
        Ok(Some(Target { name: Name::Id(id), kind })) => format!("{kind:?} id {id}"),
        Ok(None) => "none".to_owned(),
        Err(error) => format!("{error:?}"),
    }
}

#[test]
fn the_path_names_the_stream_by_its_extension_and_layout() {
    for (uri, expected) in [
        ("/live/s.flv", "Progressive live/s"),
        ("/live/s.ts", "Progressive live/s"),
        ("/live/s.aac", "Progressive live/s"),
        ("/live/s.mp3", "Progressive live/s"),
        ("/live/s.FLV", "Progressive live/s"),
        ("/live/s.Flv?token=1", "Progressive live/s"),
        ("/live/a/s.flv", "Progressive live/a/s"),
        ("//live//s.flv", "Progressive live/s"),
        ("/live/s.1080p.flv", "Progressive live/s.1080p"),
        ("/live/index.flv", "Progressive live/index"),
        ("/s.flv", "Progressive __defaultApp__/s"),
        ("/live/caf%C3%A9.flv", "Progressive live/café"),
        ("/live/a%2Fb.flv", "Progressive live/a/b"),
        ("/live/_definst_/s.flv", "Progressive live/s"),
        // HLS.
        ("/live/s.m3u8", "Playlist live/s"),
        ("/live/s.M3U8", "Playlist live/s"),
        ("/live/a/s.m3u8", "Playlist live/a/s"),
        ("/live/s/index.m3u8", "Playlist live/s"),
        ("/live/a/s/index.m3u8", "Playlist live/a/s"),
        ("/live%2fs%2Findex.m3u8", "Playlist live/s"),
        ("/live/index.m3u8", "Playlist live/index"),
        ("/live//index.m3u8", "Playlist live/index"),
        ("/live/_definst_/index.m3u8", "Playlist live/index"),
        ("/live/_definst_/s/index.m3u8", "Playlist live/s"),
        ("/index.m3u8", "Playlist __defaultApp__/index"),
        ("/live/s/manifest.m3u8", "Playlist live/s/manifest"),
        // DASH: SRS, and both layouts of nginx-rtmp.
        ("/live/s.mpd", "Manifest live/s"),
        ("/live/s/index.mpd", "Manifest live/s"),
        ("/live/s/manifest.mpd", "Manifest live/s"),
        ("/live/index.mpd", "Manifest live/index"),
        ("/live/livestream/video-init.mp4", "Segment live/livestream"),
        ("/live/livestream/audio-17.m4s", "Segment live/livestream"),
        ("/live/s/4000.m4v", "Segment live/s"),
        ("/live/s/init.m4a", "Segment live/s"),
        ("/live/s/1.cmfv", "Segment live/s"),
        ("/live/s/1.cmfa", "Segment live/s"),
        ("/live/a/s/1.M4S", "Segment live/a/s"),
        ("/dash/s-4000.m4v", "Segment dash/s"),
        ("/dash/s-init.m4a", "Segment dash/s"),
        ("/dash/a-b-4000.m4v", "Segment dash/a-b"),
        ("/dash/s-low.m4v", "none"),
        ("/dash/s-.m4v", "none"),
        ("/dash/-1.m4v", "none"),
        ("/dash/s.m4v", "none"),
        ("/videos/intro.mp4", "none"),
        ("/s-1.m4v", "none"),
        // Files, or nothing.
        ("/", "none"),
        ("", "none"),
        ("*", "none"),
        ("/live/s", "none"),
        ("/live/s.", "none"),
        ("/live/s.m3u8/", "none"),
        ("/live/.flv", "none"),
        ("/.m3u8", "none"),
        ("/players/index.html", "none"),
        ("/flv", "none"),
        ("/live/s.flv%00", "none"),
        // What cannot be a key.
        ("/live/a%0Ab.flv", "Path(ControlCharacter)"),
    ] {
        assert_eq!(target(uri), expected, "{uri}");
    }
    assert_eq!(target(&format!("/live/{}.flv", "x".repeat(MAX_KEY_LEN))), "Path(TooLong)");
}

#[test]
fn the_host_or_the_query_names_the_vhost() {
    assert_eq!(target_at("/live/s.flv", "a.example:8080"), "Progressive a.example/live/s");
    assert_eq!(target_at("/live/s.flv?vhost=b.example", "a.example"), "Progressive b.example/live/s");
    assert_eq!(target_at("/live/s/1.m4s?x=1&domain=b.example", ""), "Segment b.example/live/s");
    assert_eq!(target_at("/live/s.flv", ""), "Progressive live/s");
    let known = Vhosts::only(["b.example"]);
    let found = Target::of("/live/s.m3u8", None, "a.example", &known).unwrap().unwrap();
    assert_eq!(found.name, Name::Key(StreamKey::from_shared("__defaultVhost__/live/s").unwrap()));
}

#[test]
fn the_parameter_names_the_stream_whatever_the_path() {
    for (uri, expected) in [
        ("/x.m3u8?spstream=a.example/live/s", "Playlist a.example/live/s"),
        ("/x.M3U8?spstream=a.example/live/s", "Playlist a.example/live/s"),
        ("/live/index.m3u8?spstream=a.example/live/s", "Playlist a.example/live/s"),
        ("/live/s-1.ts?spstream=a.example/live/s", "Segment a.example/live/s"),
        ("/live/s.flv?spstream=a.example/live/s", "Segment a.example/live/s"),
        ("/live/s.mpd?spstream=a.example/live/s", "Segment a.example/live/s"),
        ("/key?t=1&spstream=a.example/live/s&u=2", "Segment a.example/live/s"),
        ("/?spstream=a.example%2Flive%2Fcaf%c3%A9%26x", "Segment a.example/live/café&x"),
        // It counts before the other parameters.
        ("/1.ts?spbhid=abc&&spstream=a.example/live/s&vhost=b.example", "Segment a.example/live/s"),
        // Which of several does not matter, but it is always the same.
        ("/1.ts?spstream=a/b/c&spstream=d/e/f", "Segment a/b/c"),
        ("/1.ts?spstream=", "Parameter(NoStream)"),
        ("/1.ts?spstream", "Parameter(NoStream)"),
        ("/1.ts?spstream=live/s", "Parameter(NoStream)"),
        ("/1.ts?spstream=a//live/s", "Parameter(NoStream)"),
        ("/1.ts?spstream=/a/live/s", "Parameter(NoStream)"),
        ("/1.ts?spstream=a/live/%00", "Parameter(ControlCharacter)"),
        ("/1.ts?spstream=a/live/%FF", "NotUtf8"),
        // Names that only look like it.
        ("/live/s.flv?xspstream=a/b/c&SPSTREAM=a/b/c", "Progressive live/s"),
    ] {
        assert_eq!(target(uri), expected, "{uri}");
    }
    assert_eq!(target(&format!("/1.ts?spstream=a/b/{}", "x".repeat(MAX_KEY_LEN))), "Parameter(TooLong)");
}

#[test]
fn ids_of_the_go_proxy_are_taken_in_bounds() {
    for (uri, expected) in [
        ("/live/s-1.ts?spbhid=3k0q-Z_9&&hls_ctx=1", "Segment id 3k0q-Z_9"),
        ("/live/s.m3u8?spbhid=a", "Playlist id a"),
        ("/live/s-1.ts?spbhid=", "Id"),
        ("/live/s-1.ts?spbhid", "Id"),
        ("/live/s-1.ts?spbhid=a*b", "Id"),
        ("/live/s-1.ts?spbhid=a%41", "Id"),
    ] {
        assert_eq!(target(uri), expected, "{uri}");
    }
    let id = "x".repeat(MAX_ID_LEN);
    assert_eq!(target(&format!("/1.ts?spbhid={id}")), format!("Segment id {id}"));
    assert_eq!(target(&format!("/1.ts?spbhid={id}x")), "Id");
}

#[test]
fn the_origin_gets_the_query_without_what_is_ours() {
    for (query, expected) in [
        (None, None),
        (Some(""), Some("")),
        (Some("a=1&&b=%2f&"), Some("a=1&&b=%2f&")),
        (Some("spstream=a/b/c"), None),
        (Some("spstream"), None),
        (Some("a=1&spstream=a/b/c&b=2"), Some("a=1&b=2")),
        (Some("a=1&spstream=a/b/c&spstream=d"), Some("a=1")),
        // As the rewriter adds it to what was there before.
        (Some("&spstream=a/b/c"), Some("")),
        (Some("a=1&&spstream=a/b/c"), Some("a=1&")),
        // As the Go proxy adds it.
        (Some("spbhid=x&&hls_ctx=1"), Some("hls_ctx=1")),
        (Some("spbhid=x&&"), Some("")),
        (Some("spbhid=x"), None),
        (Some("spbhid=x&&hls_ctx=1&&spstream=a/b/c"), Some("hls_ctx=1&")),
        (Some("xspbhid=x&&spstreams=1"), Some("xspbhid=x&&spstreams=1")),
    ] {
        assert_eq!(forwarded_query(query).as_deref(), expected, "{query:?}");
    }
}

#[test]
fn a_key_is_encoded_as_far_as_a_query_demands() {
    let key = StreamKey::from_shared("a.example/live/café & #1+\"2\"%41?=~-_").unwrap();
    let encoded = "a.example/live/caf%C3%A9%20%26%20%231%2B%222%22%2541%3F%3D~-_";
    assert_eq!(encode_parameter(&key), encoded);
}

proptest! {
    #[test]
    fn a_key_survives_the_way_through_a_query(path in "[^/\\p{C}]{1,20}(/[^/\\p{C}]{1,20}){1,3}", query in "[a-z=&%]{0,12}") {
        let Ok(key) = StreamKey::new("a.example", &path, &[], &Vhosts::any()) else { return Ok(()) };
        let query = format!("{query}&{STREAM_PARAMETER}={}&x", encode_parameter(&key));
        let target = Target::of("/1.ts", Some(&query), "b.example", &Vhosts::any());
        prop_assert_eq!(target, Ok(Some(Target { name: Name::Key(key), kind: Kind::Segment })));
    }

    #[test]
    fn a_uri_that_was_rewritten_names_its_stream_and_reaches_the_origin_as_it_was(
        path in "[a-z./]{1,12}", query in prop::option::of("[a-z=&%./?-]{0,16}"), stream in "[^/\\p{C}]{1,20}",
    ) {
        prop_assume!(!path.starts_with("//"));
        let key = StreamKey::from_shared(&format!("a.example/live/{stream}")).unwrap();
        let value = encode_parameter(&key);
        let here = m3u8::Context { name: STREAM_PARAMETER, value: &value, authorities: &[] };
        let query = query.as_deref();
        let uri = query.map_or_else(|| path.clone(), |query| format!("{path}?{query}"));
        let mut out = Vec::new();
        m3u8::rewrite(format!("#EXTM3U\n{uri}").as_bytes(), &here, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        let (path_after, query_after) = out.split_once('\n').unwrap().1.split_once('?').unwrap();

        prop_assert_eq!(path_after, path);
        let forwarded = forwarded_query(Some(query_after));
        prop_assert_eq!(forwarded.as_deref(), query);
        let target = Target::of(path_after, Some(query_after), "", &Vhosts::any()).unwrap().unwrap();
        prop_assert_eq!(target.name, Name::Key(key));
    }

    #[test]
    fn any_request_has_a_target_or_none(path: String, query: Option<String>, host: String) {
        let _ = Target::of(&path, query.as_deref(), &host, &Vhosts::any());
        let _ = forwarded_query(query.as_deref());
        for ending in ["%2f.m4s", "%2.flv", "-1.m4s", "%2Findex.mpd"] {
            let _ = Target::of(&format!("{path}{ending}"), query.as_deref(), &host, &Vhosts::any());
        }
    }
}
