use proptest::prelude::*;

use super::*;

const HERE: Context<'static> =
    Context { name: "p", value: "v/live/s", authorities: &["Proxy.example:8080", "10.0.0.7", "o:80"] };
const MASTER: &[u8] = include_bytes!("../../../tests/fixtures/srs/hls-master.http");
const MEDIA: &[u8] = include_bytes!("../../../tests/fixtures/srs/hls-media.http");

fn rewritten(playlist: impl AsRef<[u8]>) -> String {
    let mut out = Vec::new();
    rewrite(playlist.as_ref(), &HERE, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

/// What becomes of a line after the first one.
fn line(line: &str) -> String {
    rewritten(format!("#EXTM3U\n{line}")).strip_prefix("#EXTM3U\n").unwrap().to_owned()
}

/// The body of an answer that was recorded.
fn body(answer: &[u8]) -> &str {
    std::str::from_utf8(answer).unwrap().split_once("\r\n\r\n").unwrap().1
}

#[test]
fn uris_that_lead_back_to_the_proxy_carry_the_parameter() {
    for (uri, expected) in [
        ("s-1.ts", "s-1.ts?p=v/live/s"),
        ("/live/s-1.ts", "/live/s-1.ts?p=v/live/s"),
        ("../s/1.m4s", "../s/1.m4s?p=v/live/s"),
        ("./1:2.ts", "./1:2.ts?p=v/live/s"),
        ("2026-11-22T16:26:28.ts", "2026-11-22T16:26:28.ts?p=v/live/s"),
        ("cam_12:30.ts", "cam_12:30.ts?p=v/live/s"),
        ("a b/ü.ts", "a b/ü.ts?p=v/live/s"),
        // A query, and a fragment, stay byte by byte.
        ("s.ts?token=a%2Fb+c==&e=1", "s.ts?token=a%2Fb+c==&e=1&p=v/live/s"),
        ("s.ts?url=http://x/?y", "s.ts?url=http://x/?y&p=v/live/s"),
        ("s.ts#t=10,20", "s.ts?p=v/live/s#t=10,20"),
        ("s.ts?a=1#f?g", "s.ts?a=1&p=v/live/s#f?g"),
        ("s.ts#f?g=1", "s.ts?p=v/live/s#f?g=1"),
        ("?a=1", "?a=1&p=v/live/s"),
        // Empty pairs are somebody's too.
        ("s.ts?", "s.ts?&p=v/live/s"),
        ("s.ts?a=1&", "s.ts?a=1&&p=v/live/s"),
        ("s.ts?&&a=1", "s.ts?&&a=1&p=v/live/s"),
        // A parameter of the same name is replaced.
        ("s.ts?p=old", "s.ts?p=v/live/s"),
        ("s.ts?p", "s.ts?p=v/live/s"),
        ("s.ts?p=old&a=1", "s.ts?p=v/live/s&a=1"),
        ("s.ts?a=1&p=old&b=2&p=older", "s.ts?a=1&p=v/live/s&b=2"),
        ("s.ts?pp=1&xp=2&P=3", "s.ts?pp=1&xp=2&P=3&p=v/live/s"),
        ("s.ts#p=1", "s.ts?p=v/live/s#p=1"),
        // Ours, however it is written, becomes rooted.
        ("http://proxy.EXAMPLE:8080/live/s.ts?a=1", "/live/s.ts?a=1&p=v/live/s"),
        ("https://proxy.example:8080/s.ts", "/s.ts?p=v/live/s"),
        ("HTTP://10.0.0.7/s.ts", "/s.ts?p=v/live/s"),
        ("http://10.0.0.7:80/s.ts", "/s.ts?p=v/live/s"),
        ("http://10.0.0.7:/s.ts", "/s.ts?p=v/live/s"),
        ("https://10.0.0.7:443/s.ts", "/s.ts?p=v/live/s"),
        ("http://o/s.ts", "/s.ts?p=v/live/s"),
        ("//o/s.ts", "/s.ts?p=v/live/s"),
        ("//o:80/s.ts#f", "/s.ts?p=v/live/s#f"),
        ("http://o", "/?p=v/live/s"),
        ("http://o?a=1", "/?a=1&p=v/live/s"),
        ("http://o#f", "/?p=v/live/s#f"),
        ("http://o//evil.example/s.ts", "/.//evil.example/s.ts?p=v/live/s"),
        ("http://o/\\evil.example/s.ts", "/./\\evil.example/s.ts?p=v/live/s"),
        // Variables.
        ("{$base}/s.ts", "{$base}/s.ts?p=v/live/s"),
        ("s.ts?t={$t}", "s.ts?t={$t}&p=v/live/s"),
    ] {
        assert_eq!(line(uri), expected, "{uri}");
        let attribute = |uri: &str| format!("#EXT-X-MAP:BYTERANGE=\"1@0\",URI=\"{uri}\",X=1");
        assert_eq!(line(&attribute(uri)), attribute(expected), "{uri}");
    }
}

#[test]
fn uris_that_lead_elsewhere_stay() {
    for uri in [
        "http://cdn.example/s.ts?sig=1",
        "https://10.0.0.70/s.ts",
        "http://10.0.0.7:8080/s.ts",
        "https://10.0.0.7:80/s.ts",
        "http://proxy.example/s.ts",
        "http://user@o/s.ts",
        "http://o.evil.example/s.ts",
        "http://o@evil.example/s.ts",
        "//cdn.example/s.ts",
        "http:///s.ts",
        "http:s.ts",
        "///s.ts",
        "data:text/plain;base64,AAAA",
        "skd://key-id",
        "urn:uuid:1",
        "blob:http://o/1",
        "ftp://o/s.ts",
    ] {
        assert_eq!(line(uri), uri);
        let key = format!("#EXT-X-KEY:METHOD=SAMPLE-AES,URI=\"{uri}\"");
        assert_eq!(line(&key), key);
    }
}

#[test]
fn the_uri_attribute_of_every_tag_counts_and_nothing_that_only_looks_like_it() {
    for (tag, expected) in [
        ("#EXT-X-KEY:METHOD=AES-128,URI=\"k?a=1\",IV=0x1", "#EXT-X-KEY:METHOD=AES-128,URI=\"k?a=1&p=v/live/s\",IV=0x1"),
        ("#EXT-X-SESSION-KEY:METHOD=AES-128,URI=\"k\"", "#EXT-X-SESSION-KEY:METHOD=AES-128,URI=\"k?p=v/live/s\""),
        (
            "#EXT-X-MEDIA:TYPE=AUDIO,NAME=\"a,URI=b\",URI=\"a.m3u8\"",
            "#EXT-X-MEDIA:TYPE=AUDIO,NAME=\"a,URI=b\",URI=\"a.m3u8?p=v/live/s\"",
        ),
        (
            "#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,URI=\"i.m3u8\"",
            "#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH=1,URI=\"i.m3u8?p=v/live/s\"",
        ),
        (
            "#EXT-X-SESSION-DATA:DATA-ID=\"d\",URI=\"d.json\"",
            "#EXT-X-SESSION-DATA:DATA-ID=\"d\",URI=\"d.json?p=v/live/s\"",
        ),
        (
            "#EXT-X-PART:DURATION=0.3,URI=\"p,1.mp4\",INDEPENDENT=YES",
            "#EXT-X-PART:DURATION=0.3,URI=\"p,1.mp4?p=v/live/s\",INDEPENDENT=YES",
        ),
        ("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"p2.mp4\"", "#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"p2.mp4?p=v/live/s\""),
        (
            "#EXT-X-RENDITION-REPORT:URI=\"../1M/w.m3u8\",LAST-MSN=2",
            "#EXT-X-RENDITION-REPORT:URI=\"../1M/w.m3u8?p=v/live/s\",LAST-MSN=2",
        ),
        ("#EXT-X-UNHEARD-OF:URI=\"u\"", "#EXT-X-UNHEARD-OF:URI=\"u?p=v/live/s\""),
        ("#EXT-X-MAP: URI=\"m.mp4\" , X=1", "#EXT-X-MAP: URI=\"m.mp4?p=v/live/s\" , X=1"),
        ("#EXT-X-A:URI=\"1\",URI=\"2\"", "#EXT-X-A:URI=\"1?p=v/live/s\",URI=\"2?p=v/live/s\""),
        // An attribute without a value, or whose value has a quote inside, hides none of the others.
        ("#EXT-X-A:YES,B=x\"y,URI=z\"w,URI=\"1\"", "#EXT-X-A:YES,B=x\"y,URI=z\"w,URI=\"1?p=v/live/s\""),
    ] {
        assert_eq!(line(tag), expected);
    }
    for tag in [
        "#EXT-X-KEY:METHOD=NONE",
        "#EXT-X-MEDIA:NAME=\"a,URI=b\",X-URI=\"c\",URI2=\"d\",uri=\"e\"",
        "#EXT-X-CONTENT-STEERING:SERVER-URI=\"/steering\"",
        "#EXT-X-DATERANGE:ID=\"1\",X-ASSET-URI=\"a.m3u8\"",
        "#EXT-X-A:URI=unquoted",
        "#EXT-X-A:URI=\"\"",
        "#EXT-X-A:URI=x\"y\"",
        "#EXT-X-A:URI=\"never closed",
        "#EXT-X-A:NAME=\"never closed,URI=\"u\"",
        "#EXT-X-A,URI=\"no colon\"",
        "#EXTINF:4.0,a title, URI=\"not one\"",
        "#EXT-X-DEFINE:NAME=\"base\",VALUE=\"http://o/x\"",
        "# URI=\"a comment\"",
        "#comment:URI=\"u\"",
    ] {
        assert_eq!(line(tag), tag);
    }
}

#[test]
fn line_ends_blank_lines_marks_and_unknown_lines_stay() {
    for (playlist, expected) in [
        ("#EXTM3U", "#EXTM3U"),
        ("#EXTM3U\r\na.ts\r\n\r\nb.ts", "#EXTM3U\r\na.ts?p=v/live/s\r\n\r\nb.ts?p=v/live/s"),
        ("#EXTM3U\na.ts\n\r\n \t\n\n", "#EXTM3U\na.ts?p=v/live/s\n\r\n \t\n\n"),
        (
            "\u{feff}#EXTM3U\n#EXT-X-KEY:URI=\"k\"\r\na",
            "\u{feff}#EXTM3U\n#EXT-X-KEY:URI=\"k?p=v/live/s\"\r\na?p=v/live/s",
        ),
        ("#EXTM3U\n \ta.ts \r\n  #comment\n", "#EXTM3U\n \ta.ts?p=v/live/s \r\n  #comment\n"),
    ] {
        assert_eq!(rewritten(playlist), expected);
    }
}

#[test]
fn recorded_playlists_of_srs_are_rewritten_in_their_uris_only() {
    assert_eq!(rewritten(body(MASTER)), body(MASTER).replace("?hls_ctx=2ii0ln9h", "?hls_ctx=2ii0ln9h&p=v/live/s"));
    let media = rewritten(body(MEDIA));
    assert_eq!(media, body(MEDIA).replace("?hls_ctx=2ii0ln9h", "?hls_ctx=2ii0ln9h&p=v/live/s"));
    assert_eq!(media.matches("p=v/live/s").count(), 3);
}

#[test]
fn what_is_no_playlist_is_refused_and_leaves_the_output_as_it_was() {
    for (playlist, error) in [
        (&b"#EXTM3U\n\xff.ts"[..], Error::NotUtf8),
        (b"", Error::NotPlaylist),
        (b"<html>", Error::NotPlaylist),
        (b"\n#EXTM3U", Error::NotPlaylist),
        (b"#EXTM3", Error::NotPlaylist),
        ("\u{feff}\u{feff}#EXTM3U".as_bytes(), Error::NotPlaylist),
    ] {
        let mut out = b"kept".to_vec();
        assert_eq!(rewrite(playlist, &HERE, &mut out), Err(error));
        assert_eq!(out, b"kept");
    }
}

#[test]
fn a_playlist_has_only_so_many_uris_also_if_they_stand_in_one_line() {
    for (head, uri) in
        [("#EXTM3U\n", "a\n"), ("#EXTM3U\n", "#EXT-X-A:URI=\"a\"\n"), ("#EXTM3U\n#EXT-X-A:", "URI=\"a\",")]
    {
        let mut out = Vec::new();
        let playlist = |uris: usize| format!("{head}{}", uri.repeat(uris));
        assert_eq!(rewrite(playlist(MAX_URIS).as_bytes(), &HERE, &mut out), Ok(()));
        assert_eq!(rewrite(playlist(MAX_URIS + 1).as_bytes(), &HERE, &mut out), Err(Error::TooManyUris));
    }
}

#[test]
fn a_playlist_grows_only_so_much() {
    let value = "x".repeat(4000);
    let here = Context { value: &value, ..HERE };
    let playlist = |uris: usize| format!("#EXTM3U\n{}", "a\n".repeat(uris));
    let each = "?p=".len() + value.len();
    let mut out = Vec::new();
    assert_eq!(rewrite(playlist(MAX_GROWTH / each).as_bytes(), &here, &mut out), Ok(()));
    out.clear();
    assert_eq!(rewrite(playlist(MAX_GROWTH / each + 2).as_bytes(), &here, &mut out), Err(Error::TooMuchGrowth));
    assert_eq!(out, b"");
}

/// Parts of playlists, which make lines that nearly are what they should be.
fn any_line() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        8 => prop::sample::select(vec![
            "#EXT-X-MAP:", "#EXTINF:", "#EXT", "#", "URI=", "URI=\"", "\"", ",", "=", "NAME=", " ", "\t", "\r", ":", "?",
            "&", "p", "p=", "p=1", "a=1", "//", "/", "http://", "https:", "o", ":80", "10.0.0.7", "{$x}", "..", "\\", "%",
        ])
        .prop_map(str::to_owned),
        1 => "[a-z]{1,4}",
        1 => any::<char>().prop_filter("the end of a line", |c| *c != '\n').prop_map(String::from),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

fn playlist() -> impl Strategy<Value = String> {
    (any::<bool>(), prop::collection::vec((any_line(), prop::sample::select(vec!["\n", "\r\n"])), 0..12)).prop_map(
        |(marked, lines)| {
            let mut text = if marked { "\u{feff}#EXTM3U\n" } else { "#EXTM3U\n" }.to_owned();
            lines.iter().for_each(|(line, end)| text.extend([line.as_str(), end]));
            text
        },
    )
}

proptest! {
    #[test]
    fn any_bytes_are_rewritten_or_refused(bytes: Vec<u8>) {
        let _ = rewrite(&bytes, &HERE, &mut Vec::new());
        let _ = rewrite(&[b"#EXTM3U\n", &bytes[..]].concat(), &HERE, &mut Vec::new());
    }

    #[test]
    fn rewriting_twice_is_rewriting_once(playlist in playlist()) {
        let once = rewritten(&playlist);
        prop_assert_eq!(rewritten(&once), once);
    }

    #[test]
    fn lines_without_uris_stay(playlist in playlist()) {
        let after = rewritten(&playlist);
        prop_assert_eq!(after.matches('\n').count(), playlist.matches('\n').count());
        for (before, after) in playlist.split('\n').zip(after.split('\n')) {
            let content = before.trim_ascii();
            let comment = content.starts_with('#') && !content.starts_with("#EXT");
            if content.is_empty() || comment || content.starts_with("#EXT") && !content.contains("URI=\"") {
                prop_assert_eq!(before, after);
            }
        }
    }

    #[test]
    fn with_the_parameters_taken_out_again_the_text_is_what_it_was(
        lines in prop::collection::vec((any_line(), prop::sample::select(vec!["\n", "\r\n"])), 0..12),
    ) {
        // A value that occurs nowhere else, and no URI that becomes rooted.
        let here = Context { name: "spstream", value: "THE/VALUE", authorities: &[] };
        let mut playlist = "#EXTM3U\n".to_owned();
        lines.iter().for_each(|(line, end)| playlist.extend([line.as_str(), end]));
        let mut out = Vec::new();
        rewrite(playlist.as_bytes(), &here, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        prop_assert_eq!(out.replace("?spstream=THE/VALUE", "").replace("&spstream=THE/VALUE", ""), playlist);
    }
}
