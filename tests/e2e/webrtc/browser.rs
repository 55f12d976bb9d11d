//! A browser publishes by WHIP through one node and plays by WHEP through another.

use srs_proxy_test_support::webrtc::Origin;
use srs_proxy_test_support::{
    LIMIT,
    browser::{START, browse},
    hook::{Call, Hook},
    mesh::Mesh,
    wait_for, wait_for_some,
};

/// What both pages have in common: an offer with all candidates in it, and reports.
const COMMON: &str = r#"<!doctype html>
<video id="video" muted autoplay playsinline></video>
<script>
const seen = { role: "ROLE", frames: 0, width: 0, mdns: 0, location: "", failure: "" };
const peer = new RTCPeerConnection();
async function signal(url) {
  await peer.setLocalDescription(await peer.createOffer());
  if (peer.iceGatheringState !== "complete") await new Promise((done) => {
    peer.onicegatheringstatechange = () => peer.iceGatheringState === "complete" && done();
  });
  const offer = peer.localDescription.sdp;
  seen.mdns = (offer.match(/ [-0-9a-f]+\.local /g) || []).length;
  const answer = await fetch(url, { method: "POST", headers: { "Content-Type": "application/sdp" }, body: offer });
  const sdp = await answer.text();
  if (answer.status !== 201) throw new Error(answer.status + " " + sdp);
  seen.location = answer.headers.get("Location");
  await peer.setRemoteDescription({ type: "answer", sdp });
}
async function count(type, property) {
  for (const report of (await peer.getStats()).values())
    if (report.type === type && report.kind === "video") seen[property] = report[property] || 0;
}
function fails(error) { seen.failure = String(error); }
setInterval(() => fetch("/report", { method: "POST", body: new URLSearchParams(seen) }), 250);
</script>
"#;

/// Publishes what the fake camera and microphone give, and has the player beside it: as a page of
/// somebody else, that may not see the camera, and so not the addresses of this machine.
const PUBLISHER: &str = r#"<iframe src="http://PLAYER/" allow="autoplay" width="400" height="300"></iframe>
<script>
navigator.mediaDevices.getUserMedia({ audio: true, video: { width: 320, height: 240, frameRate: 15 } })
  .then((media) => {
    media.getTracks().forEach((track) => peer.addTrack(track, media));
    return signal("http://NODE/rtc/v1/whip/?app=live&stream=browser");
  }).catch(fails);
setInterval(() => count("outbound-rtp", "framesEncoded"), 250);
</script>
"#;

/// Plays, and counts the pictures that really came to be shown.
const PLAYER: &str = r#"<script>
const video = document.getElementById("video");
function shown() {
  seen.frames++;
  seen.width = video.videoWidth;
  video.requestVideoFrameCallback(shown);
}
video.requestVideoFrameCallback(shown);
const media = new MediaStream();
video.srcObject = media;
peer.ontrack = (event) => media.addTrack(event.track);
for (const kind of ["audio", "video"]) peer.addTransceiver(kind, { direction: "recvonly" });
signal("http://NODE/rtc/v1/whep/?app=live&stream=browser").catch(fails);
setInterval(() => count("inbound-rtp", "framesDecoded"), 250);
</script>
"#;

fn page(role: &str, script: &str, node: std::net::SocketAddr) -> String {
    COMMON.replace("ROLE", role) + &script.replace("NODE", &node.to_string())
}

/// What a page has told last.
fn last(site: &Hook) -> Option<Call> {
    let last = site.calls().into_iter().rfind(|call| call.contains_key("role"))?;
    assert_eq!(last["failure"], "", "{last:?}");
    Some(last)
}

fn number(report: &Call, name: &str) -> u64 {
    report.get(name).map_or(0, |text| text.parse().unwrap())
}

#[test]
fn a_browser_publishes_through_one_node_and_plays_through_another() {
    let mesh = Mesh::start(2);
    let origins = [Origin::start(), Origin::start()];
    for (n, origin) in origins.iter().enumerate() {
        mesh.node(n).register_heartbeat(&origin.heartbeat());
    }
    wait_for("all nodes know both origins", LIMIT, || mesh.running().all(|node| node.origins().len() == 2));

    let player = Hook::serving(page("player", PLAYER, mesh.node(1).http_api()));
    let script = PUBLISHER.replace("PLAYER", &player.address().to_string());
    let publisher = Hook::serving(page("publisher", &script, mesh.node(0).http_api()));
    let options = [
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        // This machine may have no other interface.
        "--allow-loopback-in-peer-connection",
    ];
    let mut browser = browse(&format!("http://{}/", publisher.address()), &options);

    let (sent, shown) = wait_for_some("the browser plays four seconds", START, || {
        browser.process.assert_running();
        let (sent, shown) = (last(&publisher)?, last(&player)?);
        let counts = [(&sent, "framesEncoded"), (&shown, "framesDecoded"), (&shown, "frames")];
        counts.iter().all(|(report, name)| number(report, name) >= 60).then_some((sent, shown))
    });
    assert_eq!(shown["width"], "320", "{shown:?}");
    for report in [&sent, &shown] {
        // A script may read it only if the node's answer says so.
        assert!(report["location"].contains("session="), "{report:?}");
    }
    let held: Vec<_> = origins.iter().map(|origin| origin.sessions().len()).collect();
    assert!(held == [2, 0] || held == [0, 2], "the stream is on one origin: {held:?}");

    let offers = origins.iter().flat_map(Origin::requests).filter(|request| request.path().contains("whep"));
    let hidden: u64 = offers.map(|offer| offer.body.matches(".local ").count() as u64).sum();
    assert!(hidden > 0 && hidden == number(&shown, "mdns"), "names of mDNS in the offer: {hidden}, {shown:?}");
}
