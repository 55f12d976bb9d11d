//! What a client calls a stream, and the secrets that it shows, reach the origin unchanged.

use srs_proxy_test_support::{
    LIMIT, Nginx, Process, Proxy, ffmpeg, gstreamer,
    hook::{Call, Hook},
    media::{self, Recording},
    rtmpdump, wait_for_some,
};

fn call(hook: &Hook, kind: &str) -> Call {
    wait_for_some(&format!("the origin asks about {kind}"), LIMIT, || {
        hook.calls().into_iter().find(|call| call.get("call").is_some_and(|c| c == kind))
    })
}

fn assert_has(call: &Call, expected: &[(&str, &str)]) {
    for (key, value) in expected {
        assert_eq!(call.get(*key).map(String::as_str), Some(*value), "{key} in {call:?}");
    }
}

#[test]
fn a_token_in_the_stream_name_reaches_the_origin() {
    for publish in [ffmpeg::publish as fn(&str) -> Process, gstreamer::publish] {
        let hook = Hook::start();
        let origin = Nginx::start_with_hook(&hook);
        let proxy = Proxy::start_before(&[&origin], &[]);

        let _publisher = publish(&proxy.url("hooked/stream?token=p-4711&expires=99"));
        assert_has(&call(&hook, "publish"), &[("name", "stream"), ("token", "p-4711"), ("expires", "99")]);

        let mut player = ffmpeg::play(&proxy.url("hooked/stream?token=v-0815"));
        assert_has(&call(&hook, "play"), &[("name", "stream"), ("token", "v-0815")]);
        player.wait_for_video(5);
        assert!(!proxy.log().contains("4711") && !proxy.log().contains("0815"), "the log shows a token");
    }
}

#[test]
fn a_token_in_the_address_reaches_the_origin() {
    let hook = Hook::start();
    let origin = Nginx::start_with_hook(&hook);
    let proxy = Proxy::start_before(&[&origin], &[]);

    let _publisher = ffmpeg::publish(&proxy.url("hooked?token=p-4711/stream"));
    let published = call(&hook, "publish");
    assert_has(&published, &[("name", "stream"), ("app", "hooked")]);
    assert_has(&published, &[("tcurl", &proxy.url("hooked?token=p-4711"))]);

    let _player = rtmpdump::play(&proxy.url("hooked?token=v-0815/stream"));
    let played = call(&hook, "play");
    assert_has(&played, &[("name", "stream"), ("app", "hooked")]);
    assert!(played["tcurl"].contains("token=v-0815"), "{played:?}");
    assert!(!proxy.log().contains("4711") && !proxy.log().contains("0815"), "the log shows a token");
}

#[test]
fn an_app_of_several_parts_reaches_the_origin() {
    let origin = Nginx::start();
    let proxy = Proxy::start_before(&[&origin], &[]);
    let url = proxy.url("live/nested/stream");
    let _publisher = ffmpeg::publish(&url);
    origin.wait_until_published("live/nested", "stream");
    ffmpeg::play(&url).wait_for_video(20).assert_is_part_of(&Recording::of_file(&media::sample()));
}
