//! A browser plays HLS with hls.js, and asks two nodes in turn: every request goes to another node
//! than the one before.

use std::{env, fs, path::PathBuf};

use srs_proxy_test_support::{
    LIMIT, Nginx, Proxy,
    browser::{START, browse},
    ffmpeg,
    hook::{Call, Hook},
    http,
    redis::Redis,
    wait_for, wait_for_some,
};

/// Plays, and tells where it is four times a second.
const PAGE: &str = r#"<!doctype html>
<video id="video" muted autoplay></video>
<script src="hls.min.js"></script>
<script>
const NODES = [NODE_LIST], STREAM = "/web/stream.m3u8", REPORTS = "http://REPORT_TO/report";
const video = document.getElementById("video");
const seen = { asked: [0, 0], segments: [0, 0], fatal: "", rejected: "" };
let turn = 0;
const hls = new Hls({
  enableWorker: false,
  liveSyncDurationCount: 2,
  xhrSetup(xhr, url) {
    const node = turn++ % NODES.length, to = new URL(url);
    to.host = NODES[node];
    seen.asked[node]++;
    xhr.open("GET", to.href, true);
  },
});
hls.on(Hls.Events.FRAG_LOADED, (_, data) => {
  seen.segments[NODES.indexOf(new URL(data.networkDetails.responseURL).host)]++;
});
hls.on(Hls.Events.ERROR, (_, data) => {
  if (data.fatal) seen.fatal = data.details;
});
hls.on(Hls.Events.MANIFEST_PARSED, () => video.play().catch((error) => { seen.rejected = String(error); }));
hls.loadSource("http://" + NODES[0] + STREAM);
hls.attachMedia(video);
setInterval(() => fetch(REPORTS, { method: "POST", mode: "no-cors", body: new URLSearchParams({
  first: video.played.length ? video.played.start(0) : 0, now: video.currentTime, width: video.videoWidth,
  frames: video.getVideoPlaybackQuality().totalVideoFrames,
  a: seen.segments[0], b: seen.segments[1], fatal: seen.fatal, rejected: seen.rejected,
}) }), 250);
</script>
"#;

/// What the page has told.
struct Reports(Hook);

impl Reports {
    /// Without connections that a browser makes in advance and does not use.
    fn all(&self) -> Vec<Call> {
        self.0.calls().into_iter().filter(|call| call.contains_key("now")).collect()
    }

    fn last(&self) -> Option<Call> {
        self.all().pop()
    }
}

fn node(redis: &Redis, settings: &[(&str, &str)]) -> Proxy {
    let port = redis.port().to_string();
    let redis = [("PROXY_LOAD_BALANCER_TYPE", "redis"), ("PROXY_REDIS_PORT", port.as_str())];
    let node = Proxy::start_with(&[&redis, settings].concat());
    wait_for("the node is ready", LIMIT, || http::get(node.api(), "/readyz").is_ok_and(|answer| answer.status == 200));
    node
}

/// hls.js, where `HLS_JS` says; none if it says nothing.
fn hls_js() -> Option<PathBuf> {
    let path = env::var_os("HLS_JS").map(PathBuf::from);
    if path.is_none() {
        eprintln!("skipped: set HLS_JS to the path of hls.min.js, as tests/run.sh does");
    }
    path
}

#[test]
fn a_browser_plays_hls_through_two_nodes_in_turn() {
    let Some(script) = hls_js() else { return };
    let redis = Redis::start();
    let site = tempfile::tempdir().unwrap();
    let files = site.path().to_str().unwrap();
    let (a, b) = (node(&redis, &[("PROXY_STATIC_FILES", files)]), node(&redis, &[]));
    let origins = [Nginx::start(), Nginx::start()];
    origins.iter().for_each(|origin| a.register(origin));
    for node in [&a, &b] {
        wait_for("both origins are known", LIMIT, || node.origins().len() == 2);
    }
    let mut publisher = ffmpeg::publish(&a.url("web/stream"));
    wait_for("the playlist has segments", LIMIT, || {
        http::get(b.http(), "/web/stream.m3u8").is_ok_and(|answer| answer.body.matches(".ts").count() >= 3)
    });

    let reports = Reports(Hook::start());
    let page = PAGE
        .replace("NODE_LIST", &format!(r#""{}", "{}""#, a.http(), b.http()))
        .replace("REPORT_TO", &reports.0.address().to_string());
    fs::write(site.path().join("index.html"), page).unwrap();
    fs::copy(&script, site.path().join("hls.min.js")).unwrap_or_else(|e| panic!("{}: {e}", script.display()));

    let mut browser = browse(&format!("http://{}/", a.http()), &[]);
    let number = |report: &Call, name: &str| report[name].parse::<f64>().unwrap();
    let played = wait_for_some("the browser plays four seconds", START, || {
        browser.process.assert_running();
        let last = reports.last()?;
        assert_eq!((last["fatal"].as_str(), last["rejected"].as_str()), ("", ""), "{last:?}");
        (number(&last, "now") - number(&last, "first") > 4.0).then_some(last)
    });
    assert_eq!(played["width"], "320", "{played:?}");
    assert!(number(&played, "frames") > 30.0, "{played:?}");
    // Playlists and segments take turns, so that chance decides which node a segment comes from.
    wait_for("both nodes have served segments", START, || {
        reports.last().is_some_and(|last| number(&last, "a") > 0.0 && number(&last, "b") > 0.0)
    });
    let times = reports.all().iter().map(|report| number(report, "now")).collect::<Vec<_>>();
    assert!(times.is_sorted(), "the picture jumped back: {times:?}");
    publisher.assert_running();
}
