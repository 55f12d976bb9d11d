use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

/// What Chromium offers, and what SRS answers.
const OFFER: &[u8] = include_bytes!("../../../tests/fixtures/webrtc/chromium-publish.sdp");
const ANSWER: &[u8] = include_bytes!("../../../tests/fixtures/webrtc/srs-whip.http");

const MEDIA: &str = "v=0\nm=audio 9 X 0\na=ice-ufrag:aaaa\n";

fn answer() -> &'static str {
    std::str::from_utf8(ANSWER).unwrap().split_once("\r\n\r\n").unwrap().1
}

fn addresses(list: &[&str]) -> Vec<SocketAddr> {
    list.iter().map(|address| address.parse().unwrap()).collect()
}

fn parse(text: &str) -> Description<'_> {
    Description::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

fn rewritten(text: &str, list: &[&str]) -> String {
    rewrite_candidates(&parse(text), &addresses(list))
}

fn pairs(offer: &str, answer: &str) -> Vec<String> {
    ice_pairs(&parse(offer), &parse(answer))
}

#[test]
fn the_username_of_a_recorded_session_is_the_one_that_the_origin_expects() {
    let offer = Description::parse(OFFER).unwrap();
    assert_eq!(ice_pairs(&offer, &parse(answer())), ["18dm5796:KkUC"]);
    assert!(std::str::from_utf8(ANSWER).unwrap().contains("session=18dm5796:KkUC\r\n"));
}

#[test]
fn in_a_recorded_answer_the_candidates_change_and_nothing_else() {
    let ours = "a=candidate:1 1 udp 2130706431 198.51.100.1 8000 typ host\r\n\
        a=candidate:2 1 udp 2130706175 2001:db8::1 8001 typ host\r\n";
    let theirs = "a=candidate:0 1 udp 2130706431 192.0.2.10 28000 typ host generation 0\r\n\
        a=candidate:1 1 tcp 2130706431 192.0.2.10 28000 typ host tcptype passive\r\n";
    assert_eq!(answer().matches(theirs).count(), 2);
    let expected = answer().replace(theirs, ours);
    assert_eq!(rewritten(answer(), &["198.51.100.1:8000", "[2001:db8::1]:8001"]), expected);
}

#[test]
fn each_section_that_is_not_bundled_has_a_username_and_the_session_is_the_default() {
    let section = |ufrag: &str| format!("m=audio 9 X 0\r\na=ice-ufrag:{ufrag}\r\n");
    let description = |sections: &[&str]| format!("v=0\r\n{}", sections.concat());
    let (a, b) = (section("aaaa"), section("bbbb"));
    let (c, d) = (section("cccc"), section("dddd"));
    let bare = "m=video 9 X 0\r\n";
    let rejected = "m=video 0 X 0\r\na=ice-ufrag:eeee\r\n";
    let session = "a=ice-ufrag:ssss\r\n";
    for (offer, answer, expected) in [
        (description(&[&a, &b]), description(&[&c, &d]), vec!["cccc:aaaa", "dddd:bbbb"]),
        (description(&[&a, &a]), description(&[&c, &c]), vec!["cccc:aaaa"]),
        (description(&[&a, &b]), description(&[&c, bare]), vec!["cccc:aaaa"]),
        (description(&[&a, &b]), description(&[session, bare, &d]), vec!["ssss:aaaa", "dddd:bbbb"]),
        (description(&[session, bare, bare]), description(&[&c, &d]), vec!["cccc:ssss", "dddd:ssss"]),
        (description(&[&a, &b]), description(&[rejected, &d]), vec!["dddd:bbbb"]),
        (description(&[bare, &a]), description(&[&c, bare]), vec!["cccc:aaaa"]),
        (description(&[&a, &b]), description(&[&c]), vec!["cccc:aaaa"]),
    ] {
        assert_eq!(pairs(&offer, &answer), expected, "{offer} {answer}");
    }
    let bundled = "v=0\nm=audio 9 X 0\na=ice-ufrag:aaaa\nm=video 0 X 0\na=bundle-only\na=ice-ufrag:bbbb\n";
    assert_eq!(pairs(bundled, bundled), ["aaaa:aaaa", "bbbb:bbbb"]);
}

#[test]
fn what_is_no_description_is_refused_with_a_reason() {
    let many = format!("v=0\n{}", "a\n".repeat(MAX_LINES));
    let long = format!("{MEDIA}a={}", "x".repeat(MAX_LEN));
    let ufrag = |ufrag: &str| format!("v=0\nm=audio 9 X 0\na=ice-ufrag:{ufrag}\n");
    let (longest, too_long) = (ufrag(&"x".repeat(MAX_UFRAG)), ufrag(&"x".repeat(MAX_UFRAG + 1)));
    for (text, error) in [
        ("", Error::NoVersion),
        ("\nv=0", Error::NoVersion),
        (" v=0\nm=audio 9 X 0\na=ice-ufrag:aaaa", Error::NoVersion),
        ("v=1\nm=audio 9 X 0\na=ice-ufrag:aaaa", Error::NoVersion),
        ("<html>", Error::NoVersion),
        ("{\"sdp\":\"v=0\"}", Error::NoVersion),
        ("v=0", Error::NoMedia),
        ("v=0\r\na=ice-ufrag:aaaa\r\n", Error::NoMedia),
        ("v=0\r\nm=audio 9 X 0\r\n", Error::NoUfrag),
        ("v=0\r\nm=audio 9 X 0\r\na=ice-ufrag\r\n", Error::NoUfrag),
        (&ufrag(""), Error::BadUfrag),
        (&ufrag("a b"), Error::BadUfrag),
        (&ufrag("a:b"), Error::BadUfrag),
        (&ufrag("a#b"), Error::BadUfrag),
        (&ufrag("ü"), Error::BadUfrag),
        (&ufrag("\0"), Error::BadUfrag),
        (&too_long, Error::BadUfrag),
        (&many, Error::TooManyLines),
        (&long, Error::TooLong),
    ] {
        assert_eq!(Description::parse(text.as_bytes()).map(drop), Err(error), "{:?}", &text[..text.len().min(80)]);
    }
    assert_eq!(Description::parse(b"v=0\n\xff").map(drop), Err(Error::NotUtf8));
    assert!(Description::parse(longest.as_bytes()).is_ok());
    assert!(Description::parse(MEDIA.as_bytes()).is_ok());
}

#[test]
fn sections_with_candidates_get_ours_and_the_first_one_in_any_case() {
    for (before, after) in [
        // The first has none.
        ("m=audio 9 X 0\na=b\nm=video 9 X 0\n", "m=audio 9 X 0\na=b\nOURSm=video 9 X 0\n"),
        // Wherever they stand, whatever they are.
        (
            "m=audio 9 X 0\na=candidate:1 1 udp 1 10.0.0.1 1 typ host\na=b\na=candidate:1 2 UDP 1 10.0.0.1 2 typ host\n\
             a=candidate:2 1 udp 1 1.1.1.1 1 typ srflx raddr 10.0.0.1 rport 1\n\
             m=video 9 X 0\na=candidate:1 1 tcp 1 o.local 1 typ host tcptype passive\n",
            "m=audio 9 X 0\nOURSa=b\nm=video 9 X 0\nOURS",
        ),
        // The end of candidates is told once, at the end.
        (
            "m=audio 9 X 0\na=end-of-candidates\na=candidate:1 1 udp 1 10.0.0.1 1 typ host\na=end-of-candidates\na=b\n",
            "m=audio 9 X 0\nOURSa=b\na=end-of-candidates\n",
        ),
        ("m=audio 9 X 0\na=b\na=end-of-candidates\n", "m=audio 9 X 0\na=b\nOURSa=end-of-candidates\n"),
        // The first that counts; one that is bundled counts.
        ("m=audio 0 X 0\nm=video 9 X 0\n", "m=audio 0 X 0\nm=video 9 X 0\nOURS"),
        ("m=audio 0 X 0\na=bundle-only\nm=video 9 X 0\n", "m=audio 0 X 0\na=bundle-only\nOURSm=video 9 X 0\n"),
        // A candidate of the whole session is none, but tells an address.
        ("a=candidate:1 1 udp 1 10.0.0.1 1 typ host\nm=audio 9 X 0\n", "OURSm=audio 9 X 0\nOURS"),
        // A last line without an end.
        ("m=audio 9 X 0", "m=audio 9 X 0\nOURS"),
    ] {
        let head = "v=0\na=ice-lite\na=ice-ufrag:aaaa\n";
        let ours = "a=candidate:1 1 udp 2130706431 192.0.2.1 8000 typ host\n";
        let expected = format!("{head}{}", after.replace("OURS", ours));
        assert_eq!(rewritten(&format!("{head}{before}"), &["192.0.2.1:8000"]), expected, "{before}");
    }
}

#[test]
fn priorities_fall_in_the_given_order_and_foundations_differ() {
    let list: Vec<SocketAddr> = (0..300u16).map(|n| SocketAddr::from(([192, 0, 2, 1], n))).collect();
    let text = rewrite_candidates(&parse(MEDIA), &list);
    let candidates: Vec<Vec<&str>> =
        text.lines().filter_map(|line| line.strip_prefix("a=candidate:")).map(|l| l.split(' ').collect()).collect();
    assert_eq!(candidates.len(), 300);
    let priorities: Vec<u32> = candidates.iter().map(|parts| parts[3].parse().unwrap()).collect();
    assert!(priorities.is_sorted_by(|a, b| a > b));
    assert!(priorities.iter().all(|priority| *priority < 1 << 31));
    let foundations: std::collections::HashSet<_> = candidates.iter().map(|parts| parts[0]).collect();
    assert_eq!(foundations.len(), 300);
}

#[test]
fn addresses_in_other_lines_give_the_origin_away_no_more() {
    for (before, v4, v6) in [
        ("m=audio 5000 X 0", "m=audio 8000 X 0", "m=audio 8001 X 0"),
        ("m=audio 5000/2 X 0 8", "m=audio 8000 X 0 8", "m=audio 8001 X 0 8"),
        ("m=audio 9 X 0", "m=audio 9 X 0", "m=audio 9 X 0"),
        ("m=audio 0 X 0", "m=audio 0 X 0", "m=audio 0 X 0"),
        ("m=audio x X 0", "m=audio x X 0", "m=audio x X 0"),
        ("c=IN IP4 10.0.0.1", "c=IN IP4 192.0.2.1", "c=IN IP6 2001:db8::1"),
        ("c=IN IP6 fd00::1", "c=IN IP4 192.0.2.1", "c=IN IP6 2001:db8::1"),
        ("c=IN IP4 224.2.1.1/127/3", "c=IN IP4 192.0.2.1", "c=IN IP6 2001:db8::1"),
        ("c=IN IP4 origin.internal", "c=IN IP4 192.0.2.1", "c=IN IP6 2001:db8::1"),
        ("c=IN IP4 0.0.0.0", "c=IN IP4 0.0.0.0", "c=IN IP4 0.0.0.0"),
        ("c=IN IP6 ::", "c=IN IP6 ::", "c=IN IP6 ::"),
        ("c=IN IP4", "c=IN IP4", "c=IN IP4"),
        ("a=rtcp:5001", "a=rtcp:8000", "a=rtcp:8001"),
        ("a=rtcp:5001 IN IP4 10.0.0.1", "a=rtcp:8000 IN IP4 192.0.2.1", "a=rtcp:8001 IN IP6 2001:db8::1"),
        ("a=rtcp:9 IN IP4 0.0.0.0", "a=rtcp:9 IN IP4 0.0.0.0", "a=rtcp:9 IN IP4 0.0.0.0"),
        ("a=rtcp:9 IN IP4 10.0.0.1", "a=rtcp:9 IN IP4 192.0.2.1", "a=rtcp:9 IN IP6 2001:db8::1"),
        ("a=rtcp-mux", "a=rtcp-mux", "a=rtcp-mux"),
        ("a=rtcp:x", "a=rtcp:x", "a=rtcp:x"),
    ] {
        for (address, expected) in [("192.0.2.1:8000", v4), ("[2001:db8::1]:8001", v6)] {
            let text = rewritten(&format!("{MEDIA}{before}\r\n"), &[address]);
            assert!(text.contains(&format!("\n{expected}\r\n")), "{before}: {text}");
        }
    }
    let session = rewritten("v=0\r\nc=IN IP4 10.0.0.1\r\nm=audio 9 X 0\r\na=ice-ufrag:a\r\n", &["192.0.2.1:8000"]);
    assert!(session.starts_with("v=0\r\nc=IN IP4 192.0.2.1\r\nm="), "{session}");
}

#[test]
fn without_addresses_the_candidates_go_and_all_else_stays() {
    let text = format!("{MEDIA}c=IN IP4 10.0.0.1\na=candidate:1 1 udp 1 10.0.0.1 1 typ host\na=b\r\n");
    assert_eq!(rewritten(&text, &[]), format!("{MEDIA}c=IN IP4 10.0.0.1\na=b\r\n"));
}

#[test]
fn a_fragment_of_trickle_ice_is_rewritten_where_it_has_candidates() {
    let fragment = "a=ice-ufrag:aaaa\r\na=ice-pwd:x\r\nm=audio 9 X 0\r\na=mid:0\r\n\
        a=candidate:1 1 udp 1 10.0.0.1 1 typ host\r\na=end-of-candidates\r\n";
    let rewritten = |fragment: &str| {
        rewrite_candidates(&Description::parse_fragment(fragment.as_bytes()).unwrap(), &addresses(&["192.0.2.1:8000"]))
    };
    let ours = "a=candidate:1 1 udp 2130706431 192.0.2.1 8000 typ host\r\n";
    assert_eq!(rewritten(fragment), fragment.replace("a=candidate:1 1 udp 1 10.0.0.1 1 typ host\r\n", ours));
    assert_eq!(rewritten("a=ice-ufrag:aaaa\r\na=ice-pwd:x\r\n"), "a=ice-ufrag:aaaa\r\na=ice-pwd:x\r\n");
    assert_eq!(rewritten(""), "");
    assert_eq!(Description::parse_fragment(b"a=ice-ufrag:a b\r\n").map(drop), Err(Error::BadUfrag));
}

#[test]
fn every_prefix_of_a_description_is_read_or_refused() {
    for text in [OFFER, answer().as_bytes()] {
        for end in 0..text.len() {
            for read in [Description::parse(&text[..end]), Description::parse_fragment(&text[..end])] {
                let Ok(read) = read else { continue };
                assert!(!rewrite_candidates(&read, &addresses(&["192.0.2.1:8000"])).contains("192.0.2.10"));
            }
        }
    }
}

/// Lines that nearly are what they should be.
fn any_line() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        8 => prop::sample::select(vec![
            "m=", "m=audio ", "9", "0", "5000", "/2", " ", "X", "c=", "c=IN IP4 ", "10.0.0.1", "0.0.0.0", "::", "a=rtcp:",
            "a=candidate:", "1 1 udp 1 10.0.0.1 1 typ host", "a=end-of-candidates", "a=bundle-only", "a=ice-ufrag:", "aaaa",
            "\r", "v=0",
        ])
        .prop_map(str::to_owned),
        1 => any::<char>().prop_filter("the end of a line", |c| *c != '\n').prop_map(String::from),
    ];
    prop::collection::vec(part, 0..6).prop_map(|parts| parts.concat())
}

fn description() -> impl Strategy<Value = String> {
    let end = prop::sample::select(vec!["\n", "\r\n"]);
    prop::collection::vec((any_line(), end), 0..20).prop_map(|lines| {
        let mut text = MEDIA.to_owned();
        lines.iter().for_each(|(line, end)| text.extend([line.as_str(), end]));
        text
    })
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
        for bytes in [bytes.clone(), [MEDIA.as_bytes(), &bytes].concat()] {
            for read in [Description::parse(&bytes), Description::parse_fragment(&bytes)] {
                let Ok(read) = read else { continue };
                let _ = (rewrite_candidates(&read, &addresses(&["[::1]:1"])), ice_pairs(&read, &read));
            }
        }
    }

    #[test]
    fn rewriting_twice_is_rewriting_once(text in description()) {
        let Ok(read) = Description::parse(text.as_bytes()) else { return Ok(()) };
        let list = addresses(&["192.0.2.1:8000", "[2001:db8::1]:8000"]);
        let once = rewrite_candidates(&read, &list);
        prop_assert_eq!(rewrite_candidates(&parse(&once), &list), once);
    }

    #[test]
    fn lines_that_tell_no_address_stay_in_their_order(text in description()) {
        let Ok(read) = Description::parse(text.as_bytes()) else { return Ok(()) };
        let out = rewrite_candidates(&read, &addresses(&["192.0.2.1:8000"]));
        let tells = |line: &&str| {
            ["m=", "c=", "a=rtcp:", "a=candidate:", "a=end-of-candidates"].iter().any(|kind| line.starts_with(kind))
        };
        let others = |text: &'_ str| -> Vec<String> {
            text.split_inclusive('\n').filter(|line| !tells(line)).map(str::to_owned).collect()
        };
        prop_assert_eq!(others(&text), others(&out));
    }
}
